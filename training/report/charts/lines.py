"""Curves over steps or epochs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from training.report.charts.theme import MUTED, drawing, series_colour, to_svg
from training.report.page import Chart, Key
from training.report.wording import figure as shown

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
    keys = [Key(one.label, number) for number, one in enumerate(series)] if len(series) > 1 else []
    alt = f"{title}. " + " ".join(_in_words(one, x_label, unit) for one in series)
    with drawing() as (figure, axes):
        for number, one in enumerate(series):
            marker = "o" if len(one.x) <= FEW else ""
            axes.plot(one.x, one.y, color=series_colour(number), marker=marker, markersize=3.5)
        if reference is not None and _fits(reference.value, series):
            axes.axhline(reference.value, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)))
            keys = keys or [Key(series[0].label, 0)]
            keys.append(Key(reference.label, -1, "dash"))
            alt += f" For comparison, {reference.label}: {shown(reference.value)}{_unit(unit)}."
        axes.set_xlabel(x_label)
        if from_zero:
            axes.set_ylim(bottom=0)
        few_ticks(axes)
        svg = to_svg(figure, name, alt)
    return Chart(
        title=f"{title}, {unit}" if unit else title, svg=svg, alt=alt, keys=tuple(keys), note=note
    )


def few_ticks(axes: Axes) -> None:
    """Ticks that do not touch each other on a phone."""
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(5))


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
