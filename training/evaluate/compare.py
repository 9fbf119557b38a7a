"""Compare evaluations of the same images, and write the comparison as tables in Markdown.

Shapes: V images, S seeds, D draws of the training labels.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.backbone.card import table_row
from pipeline.core.errors import InputError, check
from pipeline.core.progress import WARNING, say
from training.evaluate.intervals import Difference, paired_difference, seeds_difference
from training.evaluate.results import Predictions, read_predictions

FOUND_ON_TRAINING = {"strength", "device"}
"""Settings that may differ between evaluations that were asked for alike."""
NAMED = 3
"""Images that a message names."""
MOST_CLASSES = 20
"""Of a table; of more classes the ones that gain and lose most are shown."""
ByFigure = dict[str, Predictions]
"""Predictions of one checkpoint by the column of their figure."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side of a comparison: its name in tables, and the predictions of each seed."""

    name: str
    seeds: tuple[ByFigure, ...]

    def right(self, figure: str) -> NDArray[np.bool_]:
        """Whether each prediction is right, [S, D, V]."""
        return np.stack([seed[figure].right_DV for seed in self.seeds])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of one arm beside that of the first arm, the baseline.

    Attributes:
        figure: protocol and variant.
        top1_baseline: mean over the seeds, in percent.
        top1: likewise, of the other arm.
        only_baseline: images that only the first arm is right on; of several seeds their mean.
        only_arm: images that only the other arm is right on, likewise.
        gains: points by class, with the number of its images.
    """

    figure: str
    baseline: str
    arm: str
    num_images: int
    num_seeds: int
    top1_baseline: float
    top1: float
    difference: Difference
    only_baseline: float
    only_arm: float
    gains: dict[str, tuple[float, int]]


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
    check(double is None, f"{double} is given twice: a comparison wants different evaluations")
    if len(folders) == 1:
        found = _checkpoints(folders[0], checkpoints)
        arms = [Arm(name=name, seeds=(one,)) for name, one in found.items()]
    else:
        arms = []
        for name, some in named:
            of_folder = {folder: _checkpoints(folder, checkpoints) for folder in some}
            for folder, groups in of_folder.items():
                check(
                    len(groups) == 1,
                    f"{folder} holds several checkpoints: choose one by --checkpoint "
                    f"({', '.join(sorted(groups))})",
                )
            seeds = tuple(one for groups in of_folder.values() for one in groups.values())
            arms.append(Arm(name=name, seeds=seeds))
    names = [arm.name for arm in arms]
    check(
        len(names) >= 2 and len(set(names)) == len(names),
        f"got {', '.join(names)}: name two folders of evaluations or more (--results of "
        "jobs/evaluate.py), or NAME=FOLDER,... of different names",
    )
    told = ", ".join(f"{arm.name} {len(arm.seeds)}" for arm in arms)
    check(
        len({len(arm.seeds) for arm in arms}) == 1,
        f"the arms have other numbers of seeds ({told}): they cannot be paired",
    )
    return arms


def _named(word: str, root: Path) -> tuple[str, list[Path]]:
    name, equals, folders = word.partition("=")
    if not equals or (root / word).exists():
        return word, [root / word]
    fits = bool(name) and all(folders.split(","))
    check(fits, f"{word!r}: wanted a folder, or NAME=FOLDER,FOLDER,...")
    return name, [root / folder for folder in folders.split(",")]


def _checkpoints(folder: Path, wanted: Sequence[str]) -> dict[str, ByFigure]:
    """A folder's predictions by checkpoint, those that are wanted; none: all.

    A checkpoint is wanted by its whole name or the end of its path.
    """
    found = read_predictions(folder)
    of_name = Counter(row for row, _ in {(p.result.row, p.result.checkpoint_digest) for p in found})
    ends = tuple(f"/{one.strip('/')}" for one in wanted)
    groups: dict[str, ByFigure] = {}
    for one in found:
        name, column = one.result.row, one.result.column
        if of_name[name] > 1:
            name = f"{name} {one.result.checkpoint_digest[:12]}"
        by_figure = groups.setdefault(name, {})
        if not wanted or name in wanted or name.endswith(ends):
            other = by_figure.setdefault(column, one)
            check(
                other is one,
                f"{folder} holds {column} on {other.result.val} and on {one.result.val}: evaluate "
                "each into a folder of its own",
            )
    chosen = {name: some for name, some in groups.items() if some}
    check(
        bool(chosen),
        f"{folder} holds no checkpoint {', '.join(wanted)}: choose from {', '.join(groups)}",
    )
    return chosen


def _protocol(figure: str, seeds: Sequence[tuple[str, ByFigure]]) -> str:
    return next(seed[figure].result.protocol for _, seed in seeds if figure in seed)


def shared_figures(arms: Sequence[Arm], protocols: Sequence[str]) -> list[str]:
    """The figures of protocols (none: of all) that all seeds of all arms hold, of the same images.

    Raises:
        InputError: an unknown protocol, no figure in common, other images or labels, another
            number of draws.
    """
    seeds = [(arm.name, seed) for arm in arms for seed in arm.seeds]
    known = dict.fromkeys(p.result.protocol for _, seed in seeds for p in seed.values())
    for name in protocols:
        check(name in known, f"no arm has protocol {name!r}: choose from {', '.join(known)}")
    wanted = protocols or tuple(known)
    first_name, first = seeds[0]
    figures = [
        figure
        for figure, found in first.items()
        if found.result.protocol in wanted and all(figure in seed for _, seed in seeds)
    ]
    every = dict.fromkeys(f for _, seed in seeds for f, one in seed.items())
    left_out = [f for f in every if f not in figures and _protocol(f, seeds) in wanted]
    if figures and left_out:
        say(f"{WARNING}not in all evaluations, and left out: {', '.join(left_out)}")
    told = "; ".join(f"{name}: {', '.join(seed)}" for name, seed in seeds)
    check(
        bool(figures),
        f"the evaluations have no figure of {', '.join(wanted)} in common: {told}",
    )
    for figure in figures:
        for name, seed in seeds[1:]:
            pair = f"{first_name} and {name}" if name != first_name else f"two seeds of {name}"
            _check_pair(f"{pair}: {figure}", first[figure], seed[figure])
    return figures


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
    check(
        len(other) == 0,
        f"{what} has other labels for {len(other)} images ({', '.join(other[:NAMED])})",
    )
    draws_a, draws_b = len(a.predicted_DV), len(b.predicted_DV)
    check(
        draws_a == draws_b,
        f"{what} has {draws_a} and {draws_b} draws of labels: evaluate both with the same "
        "--finetune.draws",
    )
    settings_a, settings_b = (p.result.settings | {"train": p.result.train_digest} for p in (a, b))
    shared = settings_a.keys() & settings_b.keys() - FOUND_ON_TRAINING
    differ = sorted(key for key in shared if settings_a[key] != settings_b[key])
    if differ:
        say(f"{WARNING}{what} was evaluated with other {', '.join(differ)}")


def compare(arms: Sequence[Arm], figures: Sequence[str], *, seed: int) -> list[Comparison]:
    """Compare every arm with the first one; the seed is the bootstrap's.

    One seed and one draw of labels are compared by `paired_difference`, one seed of several draws
    by `seeds_difference` over the draws, several seeds by `seeds_difference` over the seeds.
    """
    return [_compare(figure, arms[0], arm, seed=seed) for arm in arms[1:] for figure in figures]


def _compare(figure: str, baseline: Arm, arm: Arm, *, seed: int) -> Comparison:
    a_SDV, b_SDV = baseline.right(figure), arm.right(figure)
    num_seeds, num_draws, num_images = a_SDV.shape
    if num_seeds * num_draws == 1:
        difference = paired_difference(a_SDV[0, 0], b_SDV[0, 0], seed)
    elif num_seeds == 1:
        difference = seeds_difference(a_SDV[0], b_SDV[0])
    else:
        difference = seeds_difference(a_SDV.mean(axis=1), b_SDV.mean(axis=1))
    of_first = baseline.seeds[0][figure]
    gained_V = b_SDV.mean(axis=(0, 1)) - a_SDV.mean(axis=(0, 1))
    gains = {}
    for label in np.unique(of_first.labels_V):
        of_class = gained_V[of_first.labels_V == label]
        gains[of_first.class_names[label]] = 100 * float(of_class.mean()), len(of_class)
    return Comparison(
        figure=figure,
        baseline=baseline.name,
        arm=arm.name,
        num_images=num_images,
        num_seeds=num_seeds,
        top1_baseline=100 * float(a_SDV.mean()),
        top1=100 * float(b_SDV.mean()),
        difference=difference,
        only_baseline=float((a_SDV & ~b_SDV).mean(axis=(0, 1)).sum()),
        only_arm=float((~a_SDV & b_SDV).mean(axis=(0, 1)).sum()),
        gains=gains,
    )


def markdown(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Lines of the tables: the figures of all arms, then the gains per class of each arm."""
    first = comparisons[0]
    by_arm: dict[str, dict[str, Comparison]] = {}
    for one in comparisons:
        by_arm.setdefault(one.arm, {})[one.figure] = one
    yield from _head(
        ["top-1, %", first.baseline, *by_arm, *(f"{a} - {first.baseline}" for a in by_arm)]
    )
    for figure, of_first in by_arm[first.arm].items():
        some = [of_arm[figure] for of_arm in by_arm.values()]
        tops = [of_first.top1_baseline, *(one.top1 for one in some)]
        told = [_told(one.difference) for one in some]
        yield table_row([figure, *(f"{top:.2f}" for top in tops), *told])
    yield ""
    method = "McNemar's exact p, paired bootstrap over images (draws of labels: over both)."
    if first.num_seeds > 1:
        method = f"Means of {first.num_seeds} seeds, paired in order; seeds and images vary."
    yield f"{method} Points, with intervals of 95 %; {first.num_images} images."
    for arm, of_figure in by_arm.items():
        yield ""
        yield from _head([f"{arm} - {first.baseline} by class", "images", *of_figure])
        gains = of_figure[first.figure].gains
        shown = list(gains)
        if len(shown) > MOST_CLASSES:
            shown.sort(key=lambda name: gains[name][0], reverse=True)
            shown = shown[: MOST_CLASSES // 2] + shown[-MOST_CLASSES // 2 :]
        for name in shown:
            points = (one.gains[name][0] for one in of_figure.values())
            yield table_row([name, str(gains[name][1]), *(f"{value:+.1f}" for value in points)])


def _told(found: Difference) -> str:
    p = f"p = {found.p:.2g}" if found.p >= 1e-4 else "p < 0.0001"
    return f"{found.points:+.2f} ({found.low:+.2f} to {found.high:+.2f}), {p}"


def _head(cells: Sequence[str]) -> Iterator[str]:
    yield table_row(cells)
    yield table_row(["---", *["---:"] * (len(cells) - 1)])
