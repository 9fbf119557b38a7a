"""What a table of the ablation is: arms, what they share, and their data."""

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import InputError
from tests.benchmarks import tables

Value = str | int | float | bool | tuple[str | int | float, ...]
Options = dict[str, Value]
"""Options of jobs/pretrain.py without their dashes, and their values."""
FIRST_CHOICE_SEED = 100
"""Seeds from here on are for choosing settings; the smaller ones are reported."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the runs of one seed train on and are scored on.

    `shards` are labelled; their images are kNN's bank and the probe's, too. `tests` are labelled
    images in class folders, by the name of the column.
    """

    shards: Path
    tests: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Arms that are compared with a baseline, and the options that all have in common.

    `name` is that of its file in `tests/benchmarks/tables`; `prepare` makes the data of a seed
    below a folder, or finds it there. `sources` names the saliency of arms that have another one
    than `boundary`; where there are any, `prepare` takes it, too. `data_of` is the table
    whose pictures and shards it shares; empty: it has its own.
    """

    name: str
    about: str
    baseline: str
    common: Options
    arms: Mapping[str, Options]
    prepare: Callable[..., Data]
    sources: Mapping[str, str] = field(default_factory=dict)
    data_of: str = ""

    @property
    def data_folder(self) -> str:
        """Of the pictures and shards, below that of all tables."""
        return self.data_of or self.name

    def source(self, arm: str) -> str:
        """The saliency of an arm."""
        return self.sources.get(arm, "boundary")

    def data(self, arm: str, folder: Path, seed: int) -> Data:
        """The data of an arm and a seed."""
        if not self.sources:
            return self.prepare(folder, seed)
        return self.prepare(folder, seed, self.source(arm))

    def options(self, arm: str) -> Options:
        """All options of an arm; raises InputError if there is no such arm."""
        if arm not in self.arms:
            raise InputError(f"unknown arm {arm!r}: {self.name} has {', '.join(self.arms)}")
        return self.common | self.arms[arm]


def known_tables() -> list[str]:
    """The names of all tables."""
    return [module.name for module in pkgutil.iter_modules(tables.__path__)]


def find_table(name: str) -> Table:
    """The table of that name; InputError lists the known ones."""
    known = known_tables()
    if name not in known:
        raise InputError(f"unknown table {name!r}: choose one of {', '.join(sorted(known))}")
    found = importlib.import_module(f"{tables.__name__}.{name}").TABLE
    assert isinstance(found, Table)
    return found


def command_line(options: Options) -> list[str]:
    """The options as words of a command line."""
    words: list[str] = []
    for name, value in options.items():
        if isinstance(value, bool):
            group, _, last = name.rpartition(".")
            words.append(f"--{name}" if value else f"--{group}{'.' * bool(group)}no-{last}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", *map(str, values)]
    return words


def plain(options: Options) -> str:
    """The options as one line of JSON that does not depend on their order."""
    return json.dumps(options, sort_keys=True)
