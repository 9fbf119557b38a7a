"""Curves over steps or epochs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from training.report.charts.theme import MUTED, drawing, series_colour, to_svg
from training.report.page import Chart, Key, Mark
from training.report.wording import figure as shown

NO_BREAK = "\u00a0"
NICE = (1, 2, 5, 10)
"""Steps between ticks, times a power of ten."""
STROKES: Sequence[tuple[Mark, Any]] = (
    ("line", "-"),
    ("dash", (0, (5, 2))),
    ("dots", (0, (1.2, 1.6))),
)
"""Curves that lie over each other are both seen, and differ in more than colour."""
FEW = 12
"""Up to so many points each has a mark: between them nothing was measured."""


class Series(NamedTuple):
    """A curve: its name, and float64 [n] each of places and values."""

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


class Reference(NamedTuple):
    """A level to compare with."""

    label: str
    value: float


def line_chart(
    name: str,
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    unit: str = "",
    reference: Reference | None = None,
    from_zero: bool = False,
    note: str = "",
) -> Chart:
    """Curves in one frame.

    Args:
        name: of the chart, its own on the page.
        title: what is drawn.
        series: at least one, none of them empty.
        x_label: what the places are, such as `epoch`.
        unit: of the values.
        reference: a dashed level; left out where it would flatten the curves.
        from_zero: whether the axis begins at 0.
        note: a line below.
    """
    keys = [Key(one.label, i, STROKES[i % len(STROKES)][0]) for i, one in enumerate(series)]
    keys = keys if len(series) > 1 else []
    alt = f"{title}. " + " ".join(_in_words(one, x_label, unit) for one in series)
    with drawing() as (figure, axes):
        for number, one in enumerate(series):
            marker = "o" if len(one.x) <= FEW else ""
            axes.plot(
                one.x,
                one.y,
                color=series_colour(number),
                linestyle=STROKES[number % len(STROKES)][1],
                marker=marker,
                markersize=3.5,
            )
        if reference is not None and _fits(reference.value, series):
            axes.axhline(reference.value, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)))
            keys = keys or [Key(series[0].label, 0)]
            keys.append(Key(reference.label, "muted", "dash"))
            alt += f" For comparison, {reference.label}: {shown(reference.value)}{_unit(unit)}."
        axes.set_xlabel(x_label)
        if from_zero:
            axes.set_ylim(0, 1.08 * max(*axes.get_ylim(), 1e-12))
        few_ticks(axes)
        svg = to_svg(figure, name, alt)
    return Chart(
        title=f"{title},{NO_BREAK}{unit}" if unit else title,
        svg=svg,
        alt=alt,
        keys=tuple(keys),
        note=note,
    )


def few_ticks(axes: Axes) -> None:
    """Ticks that do not touch each other on a phone."""
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=NICE))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=NICE))


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""


def _in_words(one: Series, x_label: str, unit: str) -> str:
    first, last = shown(float(one.y[0])), shown(float(one.y[-1]))
    least, most = shown(float(one.y.min())), shown(float(one.y.max()))
    if len(one.y) == 1:
        return f"{one.label}: {first}{_unit(unit)} at {x_label} {shown(float(one.x[0]))}."
    return (
        f"{one.label}: from {first} at {x_label} {shown(float(one.x[0]))} to {last}{_unit(unit)} "
        f"at {x_label} {shown(float(one.x[-1]))}, between {least} and {most}."
    )


def _fits(value: float, series: Sequence[Series]) -> bool:
    """Whether a level lies within twice the curves' range of them."""
    low, high = min(one.y.min() for one in series), max(one.y.max() for one in series)
    margin = max(high - low, 0.05 * abs(high))
    return bool(low - margin <= value <= high + margin)
