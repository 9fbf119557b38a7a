"""Arms of a comparison: folders of evaluations by name, and the figures that all of them hold."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.progress import WARNING, say
from training.evaluate.predictions import Predictions, read_predictions

FOUND_ON_TRAINING = {"strength", "device"}
"""Settings that may differ between evaluations that were asked for alike."""
NAMED = 3
"""Images that a message names."""
ByFigure = dict[str, Predictions]
"""Predictions of one checkpoint by the column of their figure."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: in tables.
        seeds: predictions of each seed.
    """

    name: str
    seeds: tuple[ByFigure, ...]

    def right(self, figure: str) -> NDArray[np.bool_]:
        """Whether each prediction is right, [S, D, V]: S seeds, D draws of the training labels."""
        return np.stack([seed[figure].right_DV for seed in self.seeds])


def read_arms(words: Sequence[str], checkpoints: Sequence[str], root: Path) -> list[Arm]:
    """Read the arms that a command line names, relative to a root.

    A word is a folder, or NAME=FOLDER,FOLDER,... with a folder for every seed. Of a single folder
    each checkpoint is an arm. `checkpoints` names those that are read of folders with several.

    Raises:
        InputError: fewer than two arms, a folder or name twice, other numbers of seeds, a folder
            without predictions or with several checkpoints of which none was chosen.
    """
    named = [_named(word, root) for word in words]
    folders = [folder.resolve() for _, some in named for folder in some]
    double = next((folder for folder in folders if folders.count(folder) > 1), None)
    if double is not None:
        raise InputError(f"{double} is given twice: a comparison wants different evaluations")
    if len(folders) == 1:
        by_checkpoint = _checkpoints(folders[0], checkpoints)
        arms = [Arm(name=name, seeds=(found,)) for name, found in by_checkpoint.items()]
    else:
        arms = [
            Arm(name=name, seeds=tuple(_only_checkpoint(folder, checkpoints) for folder in some))
            for name, some in named
        ]
    names = [arm.name for arm in arms]
    if len(arms) < 2 or len(set(names)) < len(names):
        raise InputError(f"got {', '.join(names)}: wanted two arms or more, of different names")
    if len({len(arm.seeds) for arm in arms}) > 1:
        told = ", ".join(f"{arm.name} {len(arm.seeds)}" for arm in arms)
        raise InputError(f"the arms have other numbers of seeds ({told}): they cannot be paired")
    return arms


def shared_figures(arms: Sequence[Arm], protocols: Sequence[str]) -> list[str]:
    """The figures of protocols (none: of all) that all seeds of all arms hold, of the same images.

    Raises:
        InputError: an unknown protocol, no figure in common, other images or labels, another
            number of draws.
    """
    seeds = [(arm.name, seed) for arm in arms for seed in arm.seeds]
    known = dict.fromkeys(p.result.protocol for _, seed in seeds for p in seed.values())
    for name in protocols:
        if name not in known:
            raise InputError(f"no arm has protocol {name!r}: choose from {', '.join(known)}")
    wanted = protocols or tuple(known)
    first_name, first = seeds[0]
    figures = [
        figure
        for figure, found in first.items()
        if found.result.protocol in wanted and all(figure in seed for _, seed in seeds)
    ]
    if not figures:
        told = "; ".join(f"{name}: {', '.join(seed)}" for name, seed in seeds)
        raise InputError(f"the evaluations have no figure of {', '.join(wanted)} in common: {told}")
    for figure in figures:
        for name, seed in seeds[1:]:
            pair = f"{first_name} and {name}" if name != first_name else f"two seeds of {name}"
            _check_pair(f"{pair}: {figure}", first[figure], seed[figure])
    return figures


def _named(word: str, root: Path) -> tuple[str, list[Path]]:
    name, equals, folders = word.partition("=")
    if not equals or (root / word).exists():
        return word, [root / word]
    if not name or not all(folders.split(",")):
        raise InputError(f"{word!r}: wanted a folder, or NAME=FOLDER,FOLDER,...")
    return name, [root / folder for folder in folders.split(",")]


def _checkpoints(folder: Path, wanted: Sequence[str]) -> dict[str, ByFigure]:
    """A folder's predictions by checkpoint, those that are wanted; none: all."""
    found = read_predictions(folder)
    of_name = Counter(row for row, _ in {(p.result.row, p.result.checkpoint_digest) for p in found})
    groups: dict[str, ByFigure] = {}
    for one in found:
        row, column = one.result.row, one.result.column
        name = f"{row} {one.result.checkpoint_digest[:12]}" if of_name[row] > 1 else row
        by_figure = groups.setdefault(name, {})
        other = by_figure.setdefault(column, one) if _is_one_of(name, wanted) else one
        if other is not one:
            raise InputError(
                f"{folder} holds {column} on {other.result.val} and on {one.result.val}: evaluate "
                "each into a folder of its own"
            )
    chosen = {name: some for name, some in groups.items() if some}
    if not chosen:
        raise InputError(
            f"{folder} holds no checkpoint {', '.join(wanted)}: choose from {', '.join(groups)}"
        )
    return chosen


def _is_one_of(name: str, wanted: Iterable[str]) -> bool:
    """Whether a checkpoint is named, by its whole name or the end of its path."""
    return not wanted or any(name == one or name.endswith(f"/{one.strip('/')}") for one in wanted)


def _only_checkpoint(folder: Path, wanted: Sequence[str]) -> ByFigure:
    groups = _checkpoints(folder, wanted)
    if len(groups) > 1:
        raise InputError(
            f"{folder} holds several checkpoints: choose one by --checkpoint ({', '.join(groups)})"
        )
    return next(iter(groups.values()))


def _check_pair(what: str, a: Predictions, b: Predictions) -> None:
    """Raise InputError unless both are of the same images; warn of other settings."""
    if not np.array_equal(a.sha256_V, b.sha256_V):
        names = dict(zip((*a.sha256_V, *b.sha256_V), (*a.names_V, *b.names_V), strict=True))
        counts_a, counts_b = Counter(a.sha256_V), Counter(b.sha256_V)
        alone = [names[x] for x in ((counts_a - counts_b) + (counts_b - counts_a)).elements()]
        raise InputError(
            f"{what} is of different images, {len(alone)} are in one of them only "
            f"({', '.join(alone[:NAMED])}): evaluate both on the same --val"
        )
    classes_a, classes_b = (np.array(p.class_names)[p.labels_V] for p in (a, b))
    other = a.names_V[classes_a != classes_b]
    if len(other):
        raise InputError(
            f"{what} has other labels for {len(other)} images ({', '.join(other[:NAMED])})"
        )
    if len(a.predicted_DV) != len(b.predicted_DV):
        raise InputError(
            f"{what} has {len(a.predicted_DV)} and {len(b.predicted_DV)} draws of labels: evaluate "
            "both with the same --finetune.draws"
        )
    settings_a, settings_b = (p.result.settings | {"train": p.result.train_digest} for p in (a, b))
    shared = settings_a.keys() & settings_b.keys() - FOUND_ON_TRAINING
    differ = sorted(key for key in shared if settings_a[key] != settings_b[key])
    if differ:
        say(f"{WARNING}{what} was evaluated with other {', '.join(differ)}")
