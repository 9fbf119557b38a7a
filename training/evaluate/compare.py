"""Compare evaluations figure by figure, and write the comparison as tables in Markdown.

Shapes: V images, S seeds, D draws of the training labels, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluate.arms import Arm
from training.evaluate.intervals import Difference, paired_difference, seeds_difference

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
        yield _row([figure, *(f"{top:.2f}" for top in tops), *told])
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
            yield _row([name, str(gains[name][1]), *(f"{value:+.1f}" for value in points)])


def _told(found: Difference) -> str:
    p = f"p = {found.p:.2g}" if found.p >= 1e-4 else "p < 0.0001"
    return f"{found.points:+.2f} ({found.low:+.2f} to {found.high:+.2f}), {p}"


def _head(cells: Sequence[str]) -> Iterator[str]:
    yield _row(cells)
    yield _row(["---", *["---:"] * (len(cells) - 1)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
