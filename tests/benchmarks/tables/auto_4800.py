"""Recipe `auto` beside `simclr_small` in as much time, on 4,800 photographs of ten classes.

Scored by the set's own validation photographs; on seeds from 100 on, which choose, by 800 of the
training photographs, as in table `photographs`.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from tests.benchmarks.ablation_table import FIRST_CHOICE_SEED, Data, Table
from tests.benchmarks.photographs import shared_photographs
from tests.benchmarks.tables.photographs import NUM_HELD_OUT


def by_hash(folder: Path) -> list[Path]:
    """The JPEGs of a folder in an order that nothing about them explains."""
    files = sorted(folder.rglob("*.jpg"))
    return sorted(files, key=lambda file: hashlib.sha256(file.read_bytes()).digest())


def linked(files: Sequence[Path], to: Path) -> Path:
    """Class folders with links to these files."""
    for file in files:
        link = to / file.parent.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(file.absolute())
    return to


def prepare(folder: Path, seed: int, *, photographs: str, num: int) -> Data:
    """Links to the photographs, and shards: the same for all seeds of a kind."""
    source = shared_photographs() / photographs
    files, val = by_hash(source / "train"), source / "val"
    if seed >= FIRST_CHOICE_SEED:
        folder = folder / "choice"
        val, files = linked(files[:NUM_HELD_OUT], folder / "val"), files[NUM_HELD_OUT:]
    shards = folder / "shards"
    run_precompute(PrecomputeConfig(data=linked(files[:num], folder / "train"), out=shards))
    return Data(shards=shards, tests={"usual": val})


def table(photographs: str, num: int, epochs: int) -> Table:
    """The table of so many photographs; epochs: of `simclr_small`, as long as `auto` takes."""
    return Table(
        name=f"auto_{num}",
        about=f"Recipe auto beside simclr_small in as much time, {num:,} of {photographs}.",
        baseline="simclr_small, equal time",
        common={},
        arms={
            "simclr_small, equal time": {"recipe": "simclr_small", "epochs": epochs},
            "auto": {"recipe": "auto"},
        },
        prepare=partial(prepare, photographs=photographs, num=num),
    )


TABLE = table("imagenette160", 4800, 8)
