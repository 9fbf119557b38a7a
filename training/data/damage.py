"""The damaged samples of a run, on its disk."""

import json
from collections.abc import Sequence
from pathlib import Path

from training.views.inputs import Damage

DAMAGED_FILE = "damaged.jsonl"


class DamageLog:
    """Names each damaged sample once in ``damaged.jsonl``.

    Every rank appends its own; a run that is resumed may name a sample again.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / DAMAGED_FILE
        self._named: set[str] = set()

    def note(self, step: int, damages: Sequence[Damage]) -> None:
        """Record what was damaged in the batch of a global step."""
        new = [damage.reason for damage in damages if damage.reason not in self._named]
        if new:
            self._named.update(new)
            with self._path.open("a") as file:
                file.writelines(json.dumps({"step": step, "reason": r}) + "\n" for r in new)
