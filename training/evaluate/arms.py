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


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: in tables.
        seeds: of each seed its predictions, by figure.
    """

    name: str
    seeds: tuple[dict[str, Predictions], ...]

    def right(self, figure: str) -> NDArray[np.bool_]:
        """Whether each prediction is right, [S, D, V]: S seeds, D draws of the training labels."""
        return np.stack([seed[figure].right_DV for seed in self.seeds])


def read_arms(words: Sequence[str], checkpoints: Sequence[str], root: Path) -> list[Arm]:
    """Read the arms that a command line names.

    Args:
        words: each a folder, or NAME=FOLDER,FOLDER,... with a folder for every seed. A single
            folder is taken apart: each checkpoint in it is an arm.
        checkpoints: names of those that are read where a folder holds several; a single folder
            may have several.
        root: that relative paths start from.

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
        arms = [
            Arm(name=name, seeds=(_by_figure(some, folders[0]),))
            for name, some in _checkpoints(folders[0], checkpoints).items()
        ]
    else:
        arms = [
            Arm(name=name, seeds=tuple(_only_checkpoint(folder, checkpoints) for folder in some))
            for name, some in named
        ]
    names = [arm.name for arm in arms]
    if len(arms) < 2 or len(set(names)) < len(names):
        raise InputError(f"got {', '.join(names)}: wanted two arms or more, of different names")
    counts = {arm.name: len(arm.seeds) for arm in arms}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"the arms have other numbers of seeds ({told}): they cannot be paired")
    return arms


def shared_figures(arms: Sequence[Arm], protocols: Sequence[str]) -> list[str]:
    """The figures that all seeds of all arms hold, of the same images.

    Args:
        arms: two or more.
        protocols: of which figures are taken; none: all.

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
            _check_pair(figure, (first_name, first[figure]), (name, seed[figure]))
    return figures


def _named(word: str, root: Path) -> tuple[str, list[Path]]:
    name, equals, folders = word.partition("=")
    if not equals or (root / word).exists():
        return word, [root / word]
    if not name or not all(folders.split(",")):
        raise InputError(f"{word!r}: wanted a folder, or NAME=FOLDER,FOLDER,...")
    return name, [root / folder for folder in folders.split(",")]


def _checkpoints(folder: Path, wanted: Sequence[str]) -> dict[str, list[Predictions]]:
    """A folder's predictions by checkpoint, those that are wanted; none: all."""
    found = read_predictions(folder)
    digests = {(p.result.row, p.result.checkpoint_digest) for p in found}
    of_name = Counter(row for row, _ in digests)
    groups: dict[str, list[Predictions]] = {}
    for one in found:
        row = one.result.row
        more = f" {one.result.checkpoint_digest[:12]}" if of_name[row] > 1 else ""
        groups.setdefault(row + more, []).append(one)
    if not wanted:
        return groups
    chosen = {name: some for name, some in groups.items() if _is_one_of(name, wanted)}
    if not chosen:
        raise InputError(
            f"{folder} holds no checkpoint {', '.join(wanted)}: choose from {', '.join(groups)}"
        )
    return chosen


def _is_one_of(name: str, wanted: Iterable[str]) -> bool:
    """Whether a checkpoint is named, by its whole name or the end of its path."""
    return any(name == one or name.endswith(f"/{one.strip('/')}") for one in wanted)


def _only_checkpoint(folder: Path, wanted: Sequence[str]) -> dict[str, Predictions]:
    groups = _checkpoints(folder, wanted)
    if len(groups) > 1:
        raise InputError(
            f"{folder} holds several checkpoints: choose one by --checkpoint ({', '.join(groups)})"
        )
    (some,) = groups.values()
    return _by_figure(some, folder)


def _by_figure(predictions: Iterable[Predictions], folder: Path) -> dict[str, Predictions]:
    figures: dict[str, Predictions] = {}
    for one in predictions:
        other = figures.setdefault(one.result.column, one)
        if other is not one:
            raise InputError(
                f"{folder} holds {one.result.column} on {other.result.val} and on "
                f"{one.result.val}: evaluate each into a folder of its own"
            )
    return figures


def _check_pair(figure: str, one: tuple[str, Predictions], two: tuple[str, Predictions]) -> None:
    (name_a, a), (name_b, b) = one, two
    pair = f"{name_a} and {name_b}" if name_a != name_b else f"two seeds of {name_a}"
    if a.images.sha256 != b.images.sha256:
        alone = [*_unmatched(a, b), *_unmatched(b, a)]
        raise InputError(
            f"{pair}: {figure} is of different images, {len(alone)} are in one of them only "
            f"({', '.join(alone[:NAMED])}): evaluate both on the same --val"
        )
    classes_a, classes_b = (np.array(p.images.class_names)[p.images.labels_V] for p in (a, b))
    other = np.flatnonzero(classes_a != classes_b)
    if len(other):
        names = [a.images.names[row] for row in other[:NAMED]]
        raise InputError(
            f"{pair}: {figure} has other labels for {len(other)} images ({', '.join(names)})"
        )
    if len(a.predicted_DV) != len(b.predicted_DV):
        raise InputError(
            f"{pair}: {figure} has {len(a.predicted_DV)} and {len(b.predicted_DV)} draws of "
            "labels: evaluate both with the same --finetune.draws"
        )
    settings = [p.result.settings | {"train": p.result.train_digest} for p in (a, b)]
    differ = [
        key
        for key in settings[0].keys() & settings[1].keys()
        if key not in FOUND_ON_TRAINING and settings[0][key] != settings[1][key]
    ]
    if differ:
        say(f"{WARNING}{pair}: {figure} was evaluated with other {', '.join(sorted(differ))}")


def _unmatched(one: Predictions, other: Predictions) -> list[str]:
    """Names of the images of one whose bytes are not those of an image of the other."""
    left, names = Counter(other.images.sha256), []
    for digest, name in zip(one.images.sha256, one.images.names, strict=True):
        if left[digest] == 0:
            names.append(name)
        left[digest] -= 1
    return names
