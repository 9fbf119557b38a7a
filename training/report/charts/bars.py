"""Distributions and comparisons: histograms, and bars with names."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from training.report.charts.lines import few_ticks
from training.report.charts.theme import INK, MUTED, NARROW, RULE, drawing, series_colour, to_svg
from training.report.page import Chart
from training.report.wording import count, figure, shortened

BAR_INCHES = 0.28
LONGEST_NAME = 22


def histogram(
    name: str,
    title: str,
    values: ArrayLike,
    *,
    x_label: str,
    unit: str = "",
    bins: int | Sequence[float] = 24,
    log_x: bool = False,
    note: str = "",
) -> Chart:
    """How often values lie where.

    Args:
        name: of the chart, its own on the page.
        title: what is counted.
        values: numbers, at least one.
        x_label: what the values are, with their unit.
        unit: for the words.
        bins: how many, or their limits.
        log_x: whether the axis is logarithmic; then all values are above 0.
        note: a line below.
    """
    values = np.asarray(values, dtype=np.float64)
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    after = f" {unit}" if unit else ""
    alt = (
        f"{title}: median {figure(float(middle))}{after}; nine tenths lie between "
        f"{figure(float(low))} and {figure(float(high))}{after}."
    )
    limits: int | Sequence[float] = bins
    if log_x and isinstance(bins, int):
        span = values.min(), max(values.max(), values.min() * 1.01)
        limits = np.geomspace(*span, bins + 1).tolist()
    with drawing() as (drawn, axes):
        axes.hist(values, bins=limits, color=series_colour(0), rwidth=0.88)
        axes.axvline(float(middle), color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_xlabel(x_label)
        few_ticks(axes)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        svg = to_svg(drawn, name, alt)
    return Chart(
        title=title, svg=svg, alt=alt, note=note or f"Dashed: the {alt.removeprefix(title + ': ')}"
    )


def named_bars(
    name: str,
    title: str,
    bars: Sequence[tuple[str, float]],
    *,
    unit: str = "",
    note: str = "",
) -> Chart:
    """Horizontal bars, each with its name and its value.

    Args:
        name: of the chart, its own on the page.
        title: what is compared.
        bars: names and values, at least one, from top to bottom.
        unit: behind the values.
        note: a line below.
    """
    after = f" {unit}" if unit else ""
    shown = [figure(value) if value % 1 else count(int(value)) for _, value in bars]
    alt = f"{title}: " + "; ".join(
        f"{bar} {text}{after}" for (bar, _), text in zip(bars, shown, strict=True)
    )
    values = [value for _, value in bars]
    most = max([*values, 1e-12])
    with drawing((NARROW[0], 0.25 + BAR_INCHES * len(bars))) as (drawn, axes):
        rows = np.arange(len(bars))
        axes.barh(rows, [most] * len(bars), color=RULE, height=0.62)
        axes.barh(rows, values, color=series_colour(0), height=0.62)
        names = [shortened(bar, LONGEST_NAME) for bar, _ in bars]
        axes.set_yticks(rows, names)
        axes.invert_yaxis()
        axes.set_xlim(0, most * 1.22)
        for row, text in enumerate(shown):
            axes.text(most * 1.02, row, text + after, va="center", color=MUTED)
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        svg = to_svg(drawn, name, alt)
    return Chart(title=title, svg=svg, alt=alt, note=note)
