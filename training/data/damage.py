"""What becomes of damaged samples, and a file that names those of a run. Imports no torch."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pipeline.storage.atomic import append_text

OnDamaged = Literal["raise", "skip"]
"""An error, or another sample in the place of the damaged one."""
DAMAGED_FILE = "damaged.jsonl"


class DamageLog:
    """Names each damaged sample once in ``damaged.jsonl`` below the folder of a run.

    Every rank appends its own; a run that is resumed may name a sample again.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / DAMAGED_FILE
        self._named: set[str] = set()

    def note(self, step: int, reasons: Iterable[str]) -> None:
        """Records what was damaged in the batch of a global step."""
        new = [reason for reason in reasons if reason not in self._named]
        if new:
            self._named.update(new)
            with self._path.open("a") as file:
                lines = [json.dumps({"step": step, "reason": r}) + "\n" for r in new]
                append_text(file, "".join(lines))
