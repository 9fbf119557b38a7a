"""Compare evaluations figure by figure, and write the comparison as tables in Markdown.

Shapes: V images, S seeds, D draws of the training labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluate.arms import Arm
from training.evaluate.comparison import Difference, paired_difference, seeds_difference

MOST_CLASSES = 20
"""Of a table; of more classes the ones that gain and lose most are shown."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of one arm beside the first arm's.

    Attributes:
        figure: protocol and variant.
        baseline: name of the first arm.
        arm: name of the other one.
        num_images: V.
        num_seeds: S.
        top1_baseline: mean over the seeds, in percent.
        top1: likewise, of the other arm.
        difference: of both, in points.
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


def compare(arms: Sequence[Arm], figures: Sequence[str], *, seed: int) -> list[Comparison]:
    """Compare every arm with the first one.

    One seed and one draw of labels are compared by `paired_difference`, one seed of several draws
    by `seeds_difference` over the draws, several seeds by `seeds_difference` over the seeds.

    Args:
        arms: two or more, of the same images.
        figures: that all of them hold.
        seed: of the bootstrap.
    """
    return [_compare(figure, arms[0], arm, seed=seed) for arm in arms[1:] for figure in figures]


def _compare(figure: str, baseline: Arm, arm: Arm, *, seed: int) -> Comparison:
    a_SDV, b_SDV = baseline.right(figure), arm.right(figure)
    images = baseline.seeds[0][figure].images
    if a_SDV.shape[:2] == (1, 1):
        difference = paired_difference(a_SDV[0, 0], b_SDV[0, 0], seed)
    elif len(a_SDV) == 1:
        difference = seeds_difference(a_SDV[0], b_SDV[0])
    else:
        difference = seeds_difference(a_SDV.mean(axis=1), b_SDV.mean(axis=1))
    repeats = a_SDV.shape[0] * a_SDV.shape[1]
    return Comparison(
        figure=figure,
        baseline=baseline.name,
        arm=arm.name,
        num_images=a_SDV.shape[2],
        num_seeds=a_SDV.shape[0],
        top1_baseline=100 * float(a_SDV.mean()),
        top1=100 * float(b_SDV.mean()),
        difference=difference,
        only_baseline=float((a_SDV & ~b_SDV).sum()) / repeats,
        only_arm=float((~a_SDV & b_SDV).sum()) / repeats,
        gains=_gains(
            b_SDV.mean(axis=(0, 1)) - a_SDV.mean(axis=(0, 1)), images.labels_V, images.class_names
        ),
    )


def _gains(
    difference_V: NDArray[np.float64], labels_V: NDArray[np.int64], names: Sequence[str]
) -> dict[str, tuple[float, int]]:
    counts_K = np.bincount(labels_V, minlength=len(names))
    points_K = 100 * np.bincount(labels_V, difference_V, len(names)) / np.maximum(counts_K, 1)
    rows = zip(names, points_K.tolist(), counts_K.tolist(), strict=True)
    return {name: (points, count) for name, points, count in rows if count}


def markdown(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Lines of the tables: the figures of all arms, then the gains per class of each arm."""
    first = comparisons[0]
    by_arm: dict[str, dict[str, Comparison]] = {}
    for one in comparisons:
        by_arm.setdefault(one.arm, {})[one.figure] = one
    heads = ["top-1, %", first.baseline, *by_arm, *(f"{a} - {first.baseline}" for a in by_arm)]
    yield _row(heads)
    yield _row(["---", *["---:"] * (len(heads) - 1)])
    for figure, of_first in by_arm[first.arm].items():
        some = [of_arm[figure] for of_arm in by_arm.values()]
        tops = [of_first.top1_baseline, *(one.top1 for one in some)]
        yield _row([figure, *(f"{top:.2f}" for top in tops), *(_told(one) for one in some)])
    yield ""
    yield f"{_method(first)} Points, with intervals of 95 %; {first.num_images} images."
    for arm, of_figure in by_arm.items():
        yield ""
        yield _row([f"{arm} - {first.baseline} by class", "images", *of_figure])
        yield _row(["---", *["---:"] * (1 + len(of_figure))])
        gains = of_figure[first.figure].gains
        for name in _shown(gains):
            points = (one.gains[name][0] for one in of_figure.values())
            yield _row([name, str(gains[name][1]), *(f"{value:+.1f}" for value in points)])


def _told(one: Comparison) -> str:
    found = one.difference
    p = f"p = {found.p:.2g}" if found.p >= 1e-4 else "p < 0.0001"
    return f"{found.points:+.2f} ({found.low:+.2f} to {found.high:+.2f}), {p}"


def _method(one: Comparison) -> str:
    if one.num_seeds > 1:
        return f"Means of {one.num_seeds} seeds, paired in order; seeds and images vary."
    return "McNemar's exact p, paired bootstrap over images (draws of labels: over both)."


def _shown(gains: dict[str, tuple[float, int]]) -> list[str]:
    if len(gains) <= MOST_CLASSES:
        return list(gains)
    ordered = sorted(gains, key=lambda name: gains[name][0], reverse=True)
    return ordered[: MOST_CLASSES // 2] + ordered[-MOST_CLASSES // 2 :]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
