"""Parallel coordinates: every trial a line through its values of all parameters."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from training.report.charts.theme import (
    INK,
    MUTED,
    NARROW,
    PAPER,
    WIDE,
    drawing,
    level_colour,
    to_svg,
)
from training.report.page import Chart
from training.report.wording import shortened


class Scale(NamedTuple):
    """One axis.

    Attributes:
        label: of the parameter.
        places: of the trials, float64 [n] in [0, 1].
        ticks: places in [0, 1] and their names.
    """

    label: str
    places: NDArray[np.float64]
    ticks: Sequence[tuple[float, str]]


def parallel_coordinates(
    name: str,
    title: str,
    scales: Sequence[Scale],
    quality: NDArray[np.float64],
    *,
    best: int | None,
    alt: str,
    note: str = "",
) -> Chart:
    """All trials over all parameters; upright axes, and lying ones for narrow screens.

    Args:
        name: of the chart, its own on the page.
        title: what is drawn.
        scales: at least two.
        quality: float64 [n] in [0, 1]: how good each trial is, its colour.
        best: index of the trial that stands out.
        alt: what it shows.
        note: a line below.
    """
    drawn = []
    for lying in (False, True):
        size = (NARROW[0], 0.4 + 0.95 * len(scales)) if lying else WIDE
        with drawing(size) as (figure, axes):
            _draw(axes, scales, quality, best, lying)
            drawn.append(to_svg(figure, f"{name}-{'lying' if lying else 'upright'}", alt))
    return Chart(title=title, svg=drawn[0], narrow=drawn[1], alt=alt, note=note, wide=True)


def _draw(
    axes: Axes,
    scales: Sequence[Scale],
    quality: NDArray[np.float64],
    best: int | None,
    lying: bool,
) -> None:
    axes.set_axis_off()
    last = len(scales) - 1
    for trial in np.argsort(quality):
        values = [float(scale.places[trial]) for scale in scales]
        is_best = trial == best
        axes.add_patch(
            PathPatch(
                _curve(values, lying),
                facecolor="none",
                edgecolor=INK if is_best else level_colour(float(quality[trial])),
                linewidth=2.6 if is_best else 1.5,
                alpha=1.0 if is_best else 0.85,
            )
        )
    text = {"color": MUTED, "fontsize": 8.5, "bbox": {"facecolor": PAPER, "edgecolor": "none"}}
    text["bbox"] |= {"alpha": 0.75, "pad": 0.6}  # type: ignore[operator]
    for number, scale in enumerate(scales):
        ends = [(0.0, 1.0), (number, number)] if lying else [(number, number), (0.0, 1.0)]
        axes.plot(*ends, color=MUTED, linewidth=1.2)
        for place, tick in scale.ticks:
            where = (place, number + 0.06) if lying else (number + 0.02, place)
            aligned = ("center", "top") if lying else ("left", "center")
            axes.text(*where, shortened(tick, 16), ha=aligned[0], va=aligned[1], **text)  # type: ignore[arg-type]
        if lying:
            named = text | {"color": INK, "fontsize": 9.5}
            axes.text(0, number - 0.1, scale.label, ha="left", va="bottom", **named)  # type: ignore[arg-type]
        else:
            axes.text(number, 1.06, scale.label, ha="center", va="bottom", color=INK)
    if lying:
        axes.set(xlim=(-0.06, 1.06), ylim=(last + 0.4, -0.45))
    else:
        axes.set(xlim=(-0.35, last + 0.45), ylim=(-0.06, 1.16))


def _curve(values: Sequence[float], lying: bool) -> Path:
    """A smooth line that crosses every axis at a right angle."""
    points, codes = [(0.0, values[0])], [int(Path.MOVETO)]
    for number, (before, after) in enumerate(pairwise(values)):
        points += [(number + 0.4, before), (number + 0.6, after), (number + 1.0, after)]
        codes += [int(Path.CURVE4)] * 3
    return Path([(y, x) for x, y in points] if lying else points, codes)
