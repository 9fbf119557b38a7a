"""Charts as plotly figures.

Colours are CSS variables. `templates/page.js` replaces them with the colours of light or dark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from training.report.wording import count, figure, shortened

Values = NDArray[np.float64]
SERIES = 8
"""Colours that tell series apart."""
DASHES = ("solid", "dash", "dot")
FEW = 12
"""A curve of at most so many points marks each of them."""
MOST_POINTS = 1000
BAR_PIXELS, LONGEST_NAME = 26, 24
HEIGHT = 270

_AXIS = {
    "automargin": True,
    "gridcolor": "var(--rule)",
    "linecolor": "var(--rule)",
    "title": {"font": {"size": 13}, "standoff": 8},
    "zeroline": False,
    "hoverformat": ".4~g",
    "nticks": 6,
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Inter, Segoe UI, system-ui, sans-serif", "size": 13},
        "font_color": "var(--muted)",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "xaxis": {**_AXIS, "showgrid": False, "showline": True},
        "yaxis": _AXIS,
        "hoverlabel": {"bgcolor": "var(--card)", "bordercolor": "var(--rule)", "align": "left"},
        "hoverlabel_font_color": "var(--ink)",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "var(--muted)"},
        "modebar_activecolor": "var(--accent)",
        "showlegend": False,
    }
)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure and the words around it.

    Attributes:
        title: what is drawn, with its unit.
        figure: the plotly figure.
        alt: what the figure shows, in words.
        note: a line below.
        wide: whether the chart takes the full width of the page.
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


class Series(NamedTuple):
    """A curve: its name and its points, float64 [n] each."""

    label: str
    x: Values
    y: Values


def colour(number: int) -> str:
    """The colour of a series; colours repeat after `SERIES`."""
    return f"var(--s{number % SERIES})"


def new_figure(*traces: Any, height: int = HEIGHT, **layout: Any) -> go.Figure:  # noqa: ANN401
    """A figure in the style of the page.

    Args:
        traces: plotly traces.
        height: pixels.
        layout: plotly layout, such as `xaxis_title`.
    """
    # With `uirevision` a change of the theme keeps zoom and hidden series.
    style = {"template": TEMPLATE, "height": height, "uirevision": "kept"}
    return go.Figure(traces, {**style, **layout})


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    unit: str = "",
    reference: tuple[str, float] | None = None,
    from_zero: bool = False,
    log_x: bool = False,
    note: str = "",
) -> Chart:
    """Draw curves in one frame.

    Args:
        title: what is drawn.
        series: at least one, none of them empty.
        x_label: what the x axis is, such as `epoch`.
        unit: of the values.
        reference: name and value of a level to compare with; left out if it would flatten the
            curves.
        from_zero: whether the y axis starts at 0.
        log_x: whether the x axis is logarithmic.
        note: a line below.
    """
    traces = []
    for number, (label, every_x, every_y) in enumerate(series):
        x, y = thinned(every_x, every_y)
        line = {"color": colour(number), "dash": DASHES[number % len(DASHES)], "width": 2}
        mode = "lines+markers" if len(x) <= FEW else "lines"
        traces.append(go.Scatter(x=x, y=y, name=escape(label), mode=mode, line=line))
    alt = f"{title}. " + " ".join(_in_words(one, x_label, unit) for one in series)
    if reference is not None and _fits(reference[1], series):
        ends = min(one.x.min() for one in series), max(one.x.max() for one in series)
        line = {"color": "var(--muted)", "dash": "dash", "width": 1.2}
        traces.append(
            go.Scatter(x=ends, y=[reference[1]] * 2, name=reference[0], mode="lines", line=line)
        )
        alt += f" For comparison, {reference[0]}: {figure(reference[1])}{_after(unit)}."
    drawn = new_figure(
        *traces,
        showlegend=len(traces) > 1,
        hovermode="x unified",
        xaxis_title=x_label,
        yaxis_title=unit,
    )
    if from_zero:
        drawn.update_yaxes(rangemode="tozero")
    if log_x:
        places = np.unique(np.concatenate([one.x for one in series]))
        drawn.update_xaxes(type="log", tickvals=places, ticktext=[figure(x) for x in places])
    return Chart(title=f"{title}, {unit}" if unit else title, figure=drawn, alt=alt, note=note)


def thinned(x: Values, y: Values, most: int = MOST_POINTS) -> tuple[Values, Values]:
    """Keep at most `most` points: the ends, and the lowest and the highest point of each part."""
    if len(x) <= most:
        return x, y
    kept = [0, len(x) - 1]
    for part in np.array_split(np.arange(len(x)), most // 2 - 1):
        kept += [part[y[part].argmin()], part[y[part].argmax()]]
    places = np.unique(kept)
    return x[places], y[places]


def histogram(
    title: str,
    values: ArrayLike,
    *,
    x_label: str,
    unit: str = "",
    bins: int | Sequence[float] = 24,
    log_x: bool = False,
    counted: str = "images",
) -> Chart:
    """Draw how many values lie in each bin, with a dashed line at the median.

    Args:
        title: what is counted.
        values: numbers, at least one.
        x_label: what the values are, with their unit.
        unit: of the values, for the words.
        bins: number of bins, or their edges.
        log_x: whether the x axis is logarithmic; then all values are above 0.
        counted: what is counted, in the plural.
    """
    values = np.asarray(values, dtype=np.float64)
    low, middle, high = (float(one) for one in np.quantile(values, [0.05, 0.5, 0.95]))
    words = (
        f"median {figure(middle)}{_after(unit)}; nine tenths lie between {figure(low)} and "
        f"{figure(high)}{_after(unit)}."
    )
    if isinstance(bins, int) and np.ptp(values) < bins and not (values % 1).any():
        bins, log_x = np.arange(values.min() - 0.5, values.max() + 1).tolist(), False
    elif log_x and isinstance(bins, int):
        bins = np.geomspace(values.min(), max(values.max(), values.min() * 1.01), bins + 1).tolist()
    counts, edges = np.histogram(values, bins=bins)
    bars = go.Bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=0.9 * np.diff(edges),
        marker_color=colour(0),
        customdata=np.stack([edges[:-1], edges[1:]], axis=1),
        hovertemplate="%{customdata[0]:.3~g} to %{customdata[1]:.3~g}"
        f"{_after(unit)}: %{{y:,}} {counted}<extra></extra>",
    )
    median = go.Scatter(
        x=[middle] * 2,
        y=[0, max(int(counts.max()), 1)],
        mode="lines",
        line={"color": "var(--ink)", "dash": "dash", "width": 1.2},
        hovertemplate=f"median {figure(middle)}{_after(unit)}<extra></extra>",
    )
    drawn = new_figure(bars, median, xaxis_title=x_label, yaxis_title=counted)
    drawn.update_yaxes(rangemode="tozero", tickformat=",~d")
    if log_x:
        shown = log_ticks(float(edges[0]), float(edges[-1]))
        drawn.update_xaxes(type="log", tickvals=shown, ticktext=[figure(x) for x in shown])
    return Chart(title=title, figure=drawn, alt=f"{title}: {words}", note=f"Dashed: the {words}")


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis from `low` to `high`, both above 0."""
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.log10(high) + 1)
    step = 10.0 ** np.floor(np.log10(max(high - low, 1e-9 * high) / 2))
    for ticks in (
        *(np.outer(powers, parts).ravel() for parts in ([1], [1, 3], [1, 2, 5])),
        *(
            np.arange(np.ceil(low / one), high / one + 0.01) * one
            for one in (5 * step, 2 * step, step)
        ),
    ):
        kept = ticks[(0.999 * low <= ticks) & (ticks <= 1.001 * high)]
        if len(kept) >= 3:
            break
    return [float(f"{tick:.6g}") for tick in kept]


def named_bars(title: str, bars: Sequence[tuple[str, float]], *, unit: str = "") -> Chart:
    """Draw horizontal bars from top to bottom, each with its name and its value.

    Args:
        title: what is compared.
        bars: names and values, at least one.
        unit: of the values.
    """
    names, values = [name for name, _ in bars], [value for _, value in bars]
    texts = [(figure(one) if one % 1 else count(int(one))) + _after(unit) for one in values]
    alt = f"{title}: " + "; ".join(f"{n} {text}" for n, text in zip(names, texts, strict=True))
    rows = list(range(len(bars)))
    trace = go.Bar(
        y=rows,
        x=values,
        orientation="h",
        marker_color=colour(0),
        width=0.62,
        text=texts,
        textposition="outside",
        cliponaxis=False,
        hovertext=[f"{escape(n)}: {text}" for n, text in zip(names, texts, strict=True)],
        hoverinfo="text",
    )
    drawn = new_figure(trace, height=30 + BAR_PIXELS * len(bars), margin_b=10)
    drawn.update_xaxes(visible=False, range=[0, 1.25 * max([*values, 1e-12])])
    drawn.update_yaxes(
        autorange="reversed",
        showgrid=False,
        tickvals=rows,
        ticklabelstandoff=6,
        ticktext=[escape(shortened(name, LONGEST_NAME)) for name in names],
    )
    return Chart(title=f"{title}, {unit}" if unit else title, figure=drawn, alt=alt)


def _after(unit: str) -> str:
    return f" {unit}" if unit else ""


def _in_words(one: Series, x_label: str, unit: str) -> str:
    first, last, least, most = (
        figure(float(value)) for value in (one.y[0], one.y[-1], one.y.min(), one.y.max())
    )
    start, end = figure(float(one.x[0])), figure(float(one.x[-1]))
    if len(one.y) == 1:
        return f"{one.label}: {first}{_after(unit)} at {x_label} {start}."
    return (
        f"{one.label}: from {first} at {x_label} {start} to {last}{_after(unit)} at {x_label} "
        f"{end}, between {least} and {most}."
    )


def _fits(level: float, series: Sequence[Series]) -> bool:
    """Whether a level lies within twice the range of the curves."""
    low, high = min(one.y.min() for one in series), max(one.y.max() for one in series)
    margin = max(high - low, 0.05 * abs(high))
    return bool(low - margin <= level <= high + margin)
