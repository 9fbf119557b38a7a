"""Charts as plotly figures.

Colours are CSS variables. `templates/page.js` has the style of all charts, and replaces the
variables with the colours of light or dark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from training.report.wording import figure, shortened

Values = NDArray[np.float64]
SERIES = 8
"""Colours that tell series apart."""
DASHES = ("solid", "dash", "dot")
FEW, MOST_POINTS = 12, 1000
"""A curve of few points marks each of them, one of more than the most is thinned."""
BINS = 24
BAR_PIXELS, LONGEST_NAME = 26, 24
LEVEL = {"color": "var(--muted)", "dash": "dash", "width": 1.2}
"""The line of a level to compare with."""


@dataclass(frozen=True)
class Chart:
    """A figure and the words around it: its title, what it shows, a line below.

    A wide one takes the full width of the page.
    """

    title: str
    figure: go.Figure
    alt: str
    note: str = ""
    wide: bool = False

    @property
    def json(self) -> Markup:
        """The figure as JSON that can stand in a script element."""
        return Markup(self.figure.to_json().replace("<", "\\u003c"))


def colour(number: int) -> str:
    """The colour of a series; colours repeat after `SERIES`."""
    return f"var(--s{number % SERIES})"


def new_figure(*traces: Any, height: int = 270, **layout: Any) -> go.Figure:  # noqa: ANN401
    """A figure of plotly traces, `height` pixels high."""
    return go.Figure(traces, {"template": "none", "height": height, **layout})


def line_chart(
    title: str,
    curves: Mapping[str, tuple[Values, Values]],
    *,
    x_label: str,
    level: tuple[str, float] | None = None,
    log_x: bool = False,
) -> Chart:
    """Draw curves by name, x and y of float64 [n], and the name and value of a level to compare."""
    drawn, alt = new_figure(hovermode="x unified", xaxis_title=x_label), f"{title}."
    for number, (name, (every_x, every_y)) in enumerate(curves.items()):
        x, y = thinned(every_x, every_y)
        line = {"color": colour(number), "dash": DASHES[number % len(DASHES)], "width": 2}
        mode = "lines+markers" if len(x) <= FEW else "lines"
        drawn.add_scatter(x=x, y=y, name=escape(name), mode=mode, line=line)
        end, last, least, most = (figure(float(one)) for one in (x[-1], y[-1], y.min(), y.max()))
        alt += f" {name}: {last} at {x_label} {end}, between {least} and {most}."
    every_x = np.unique(np.concatenate([x for x, _ in curves.values()]))
    if level is not None:
        name, value = level
        drawn.add_scatter(x=every_x[[0, -1]], y=[value] * 2, name=name, mode="lines", line=LEVEL)
        alt += f" For comparison, {name}: {figure(value)}."
    if log_x:
        drawn.update_xaxes(type="log", tickvals=every_x, ticktext=[figure(x) for x in every_x])
    return Chart(title, drawn.update_layout(showlegend=len(drawn.data) > 1), alt)


def thinned(x: Values, y: Values) -> tuple[Values, Values]:
    """Keep at most `MOST_POINTS`: the ends, and the lowest and highest point of each part."""
    if len(x) <= MOST_POINTS:
        return x, y
    kept = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), MOST_POINTS // 2 - 1):
        kept |= {part[y[part].argmin()], part[y[part].argmax()]}
    places = sorted(kept)
    return x[places], y[places]


def histogram(
    title: str,
    values: ArrayLike,
    *,
    x_label: str,
    edges: Sequence[float] | None = None,
    log_x: bool = False,
    counted: str = "images",
) -> Chart:
    """Draw how many of at least one value lie in each bin, with a dashed line at the median.

    `edges` are those of the bins; None means a bin for each of few whole numbers, else `BINS`. On a
    logarithmic axis all values are above 0. `counted` names what has the values, in the plural.
    """
    values = np.asarray(values, dtype=np.float64)
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    words = f"median {figure(median)}; nine tenths lie between {figure(low)} and {figure(high)}."
    first, last = values.min(), values.max()
    bins: Any = BINS if edges is None else edges
    if edges is None and last - first < BINS and not (values % 1).any():
        bins, log_x = np.arange(first - 0.5, last + 1), False
    elif log_x:
        bins = np.geomspace(first, max(last, 1.01 * first), BINS + 1)
    counts, bins = np.histogram(values, bins=bins)
    drawn = new_figure(xaxis_title=x_label, yaxis_title=counted)
    between = "%{customdata[0]:.3~g} to %{customdata[1]:.3~g}"
    drawn.add_bar(
        x=(bins[:-1] + bins[1:]) / 2,
        y=counts,
        width=0.9 * np.diff(bins),
        marker_color=colour(0),
        customdata=np.stack([bins[:-1], bins[1:]], axis=1),
        hovertemplate=f"{between}: %{{y:,}} {counted}<extra></extra>",
    )
    ends = {"x": [median] * 2, "y": [0, counts.max()]}
    drawn.add_scatter(**ends, mode="lines", line=LEVEL, hoverinfo="skip")
    drawn.update_yaxes(rangemode="tozero", tickformat=",~d")
    if log_x:
        ticks = log_ticks(bins[0], bins[-1])
        drawn.update_xaxes(type="log", tickvals=ticks, ticktext=[figure(x) for x in ticks])
    return Chart(title, drawn, f"{title}, {x_label}: {words}", f"Dashed: the {words}")


def log_ticks(low: float, high: float) -> list[float]:
    """Numbers for a logarithmic axis from `low` to `high`, round ones if at least 3 fit."""
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.log10(high) + 1)
    for ticks in (powers, np.outer(powers, [1, 2, 5]).ravel(), np.geomspace(low, high, 5)):
        kept = ticks[(0.999 * low <= ticks) & (ticks <= 1.001 * high)]
        if len(kept) >= 3:
            break
    return [float(f"{tick:.3g}") for tick in kept]


def named_bars(title: str, bars: Sequence[tuple[str, int]]) -> Chart:
    """Draw horizontal bars from top to bottom, each with its name and its value; at least one."""
    names, values = zip(*bars, strict=True)
    rows, words = list(range(len(bars))), [f"{name} {value:,}" for name, value in bars]
    drawn = new_figure(height=30 + BAR_PIXELS * len(bars), margin_b=10)
    drawn.add_bar(
        y=rows,
        x=values,
        orientation="h",
        marker_color=colour(0),
        width=0.62,
        text=[f"{value:,}" for value in values],
        textposition="outside",
        cliponaxis=False,
        hovertext=[escape(text) for text in words],
        hoverinfo="text",
    )
    short = [escape(shortened(name, LONGEST_NAME)) for name in names]
    ticks = {"tickvals": rows, "ticktext": short, "ticklabelstandoff": 6}
    drawn.update_xaxes(visible=False, range=[0, 1.25 * max(*values, 1)])
    drawn.update_yaxes(ticks, autorange="reversed", showgrid=False)
    return Chart(title, drawn, f"{title}: {'; '.join(words)}")
