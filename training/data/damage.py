"""Damaged samples: raise an error that names the sample, or use another sample in its place.

Under the policy ``skip`` the next good sample of the *global* batch (after its last one comes its
first) stands in, with weight 0 in the loss. Which one follows from the batch alone, so the batch is
the same for any number of ranks and loader workers and keeps its shape. A stand-in is cut and
coloured by the draws of the damaged sample: it is another view of its image, not a copy. MoCo's
queue takes its key like any other; SimCLR, whose negatives are the batch itself, leaves it out.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.core.errors import DamagedSample
from training.data.settings import OnDamaged
from training.views.host_batch import Damage

DAMAGED_FILE = "damaged.jsonl"

Item = TypeVar("Item")


def read_positions(
    read: Callable[[int], Item],
    positions: range,
    *,
    batch_size: int,
    on_damaged: OnDamaged,
) -> tuple[list[Item], tuple[Damage, ...]]:
    """Read the samples at some positions of a global batch.

    Positions beyond the end of the batch begin again.

    Returns:
        What was read for each position, and the positions where another sample stands in.

    Raises:
        DamagedSample: by ``read`` under the policy ``raise``; or every sample is damaged.
    """
    tried: dict[int, Item | DamagedSample] = {}

    def attempt(position: int) -> Item | DamagedSample:
        if position not in tried:
            try:
                tried[position] = read(position)
            except DamagedSample as error:
                if on_damaged == "raise":
                    raise
                tried[position] = error
        return tried[position]

    items, damages = [], []
    for number, position in enumerate(positions):
        found = first = attempt(position % batch_size)
        if isinstance(first, DamagedSample):
            damages.append(Damage(number, str(first)))
            for other in range(position + 1, position + batch_size):
                found = attempt(other % batch_size)
                if not isinstance(found, DamagedSample):
                    break
        if isinstance(found, DamagedSample):
            raise DamagedSample(
                f"all {batch_size} samples of a global batch are damaged; the first one: {first}"
            )
        items.append(found)
    return items, tuple(damages)


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
