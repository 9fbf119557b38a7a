"""What becomes of a damaged sample: an error that names it, or another sample in its place.

Under the policy ``skip`` the next good sample of the *global* batch (in its order, from the end on
at its beginning) takes the place, with weight 0 in the loss. Which one follows from the batch
alone, so every rank count and every number of loader workers sees the same batch; and every batch
keeps its shape, every rank its steps. The place keeps its own draws: what stands there is another
view of its image, not a copy. MoCo's queue takes its key like any other (a second view of a good
image, harmless among thousands); SimCLR, whose negatives are the batch itself, leaves it out.
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


def read_places(
    read: Callable[[int], Item],
    id_at: Callable[[int], int],
    places: range,
    *,
    batch_size: int,
    on_damaged: OnDamaged,
) -> tuple[list[Item], tuple[Damage, ...]]:
    """Reads some places of a global batch.

    Args:
        read: sample number to whatever is read of it; raises ``DamagedSample``.
        id_at: place in the global batch to the number of its sample.
        places: which of them; those beyond the end begin again.
        batch_size: places of the global batch.
        on_damaged: ``raise`` lets the error through, ``skip`` reads the next good sample instead.

    Returns:
        What was read, place by place, and where another sample stands in.

    Raises:
        DamagedSample: a sample is damaged, under ``raise``; or every sample of the batch.
    """
    tried: dict[int, Item | DamagedSample] = {}

    def attempt(place: int) -> Item | DamagedSample:
        if place not in tried:
            try:
                tried[place] = read(id_at(place))
            except DamagedSample as error:
                if on_damaged == "raise":
                    raise
                tried[place] = error
        return tried[place]

    items, damages = [], []
    for position, place in enumerate(places):
        found = attempt(place % batch_size)
        if isinstance(found, DamagedSample):
            damages.append(Damage(position, str(found)))
            found = _next_good(attempt, place, batch_size, found)
        items.append(found)
    return items, tuple(damages)


def _next_good(
    attempt: Callable[[int], Item | DamagedSample],
    place: int,
    size: int,
    first: DamagedSample,
) -> Item:
    for other in range(place + 1, place + size):
        found = attempt(other % size)
        if not isinstance(found, DamagedSample):
            return found
    raise DamagedSample(f"all {size} samples of a global batch are damaged; the first one: {first}")


class DamageLog:
    """Names each damaged sample once in the run's folder, in ``damaged.jsonl``.

    Every rank appends its own; a run that is resumed may name a sample again.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / DAMAGED_FILE
        self._named: set[str] = set()

    def note(self, step: int, damages: Sequence[Damage]) -> None:
        """Writes down what was found damaged in the batch of global ``step``."""
        new = [d.reason for d in damages if d.reason not in self._named]
        if not new:
            return
        self._named.update(new)
        lines = [json.dumps({"step": step, "reason": reason}) + "\n" for reason in new]
        with self._path.open("a") as file:
            file.write("".join(lines))
