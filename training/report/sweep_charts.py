"""The charts of a sweep."""

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from scipy.stats import rankdata

from training.report.figures import (
    Chart,
    Series,
    colour,
    line_chart,
    named_bars,
    new_figure,
)
from training.report.sweep.parameters import Parameter, explained_share, value_text
from training.report.sweep.state import FINISHED, FRACTION, METRIC, TITLES, Row, Sweep
from training.report.wording import figure


def objective_chart(sweep: Sweep, parameter: Parameter) -> Chart:
    """Draw the objective of all trials over one parameter; the best is ringed."""
    values, name = sweep.objectives(), parameter.name
    x = parameter.spread(np.arange(len(values), dtype=np.float64))
    texts = np.array([_hover(sweep, row) for row in sweep.scored])
    finished = np.array([row["status"] == FINISHED for row in sweep.scored])
    best = np.isin(np.arange(len(values)), sweep.best)
    traces = [
        go.Scatter(
            x=x[chosen],
            y=values[chosen],
            mode="markers",
            marker=marker,
            hovertext=texts[chosen],
            hoverinfo=hover,
        )
        for chosen, hover, marker in (
            (finished, "text", {"color": colour(0), "size": 8, "opacity": 0.8}),
            (~finished, "text", {"color": colour(0), "symbol": "circle-open"}),
            (best, "skip", {"color": "var(--ink)", "symbol": "circle-open", "size": 15}),
        )
    ]
    drawn = new_figure(*traces, xaxis_title=name, yaxis_title=titled(sweep))
    drawn.update_xaxes(parameter.ticks())
    first = sweep.best[0]
    alt = (
        f"{sweep.title} of {len(values)} trials over {name}: from {figure(float(values.min()))} "
        f"to {figure(float(values.max()))}; the best, {figure(float(values[first]))}, at "
        f"{parameter.texts[first]}."
    )
    return Chart(title=f"{sweep.title} over {name}", figure=drawn, alt=alt)


def _hover(sweep: Sweep, row: Row) -> str:
    lines = [f"<b>trial {row['trial']}</b>, {row['status']}"]
    lines.append(f"{titled(sweep)}: {figure(row['objective'])}")
    lines += [f"{name}: {value_text(sweep.value(row, name))}" for name in sweep.parameters]
    return "<br>".join(lines[:1] + [escape(line) for line in lines[1:]])


def titled(sweep: Sweep) -> str:
    """The objective with its unit."""
    return f"{sweep.title}, {sweep.unit}" if sweep.unit else sweep.title


def parallel_chart(sweep: Sweep, parameters: Sequence[Parameter]) -> Chart:
    """Draw every trial as a line through its values of the given parameters and its objective."""
    values = sweep.objectives()
    dimensions: list[dict[str, object]] = [
        {"label": one.name, "values": one.spread(values), **one.ticks()} for one in parameters
    ]
    dimensions.append({"label": titled(sweep), "values": values})
    ranks = rankdata(values if sweep.highest else -values, method="max") / len(values)
    ranks[sweep.best] = 1.25
    scale = [[0, "var(--low)"], [0.8, "var(--high)"], [0.9, "var(--best)"], [1, "var(--best)"]]
    trace = go.Parcoords(
        dimensions=dimensions,
        line={"color": ranks, "colorscale": scale, "cmin": 0, "cmax": 1.25},
        unselected_line={"color": "var(--rule)", "opacity": 0.3},
        labelfont={"color": "var(--ink)", "size": 13},
        tickfont={"color": "var(--muted)", "size": 12},
        rangefont={"color": "rgba(0,0,0,0)", "size": 1},
    )
    drawn = new_figure(trace, height=420, margin={"l": 80, "r": 60, "t": 50, "b": 24})
    drawn.update_layout(paper_bgcolor="var(--card)")  # the colour of the halo of ticks
    settings = ", ".join(f"{one.name} {one.texts[sweep.best[0]]}" for one in parameters)
    return Chart(
        title="Trials over all parameters that differ",
        figure=drawn,
        alt=f"Parallel coordinates of {len(values)} trials over {len(parameters)} parameters and "
        f"the objective. The best has {settings}.",
        note="Each line is a trial; the stronger its colour, the better its rank, and the best is "
        "orange. Drag along an axis to keep only the trials that pass there; click on the axis to "
        "release them. Drag a name to move its axis.",
        wide=True,
    )


def importance_chart(sweep: Sweep, parameters: Sequence[Parameter]) -> tuple[Chart | None, str]:
    """Draw the share of variance that each parameter explains.

    Returns:
        The chart, and the names of the parameters whose share is not known.
    """
    values = sweep.objectives()
    shares = [(one.name, explained_share(one, values)) for one in parameters]
    known = [(name, float(round(100 * share))) for name, share in shares if share is not None]
    unknown = ", ".join(name for name, share in shares if share is None)
    if not known:
        return None, unknown
    known.sort(key=lambda pair: -pair[1])
    return named_bars("Explained share", known, unit="%"), unknown


def scaling_charts(sweep: Sweep) -> list[Chart]:
    """Draw the objective, kNN and the held-out loss over the share of the data.

    One line per number of epochs, of finished trials; trials with the same values are averaged.
    """
    charts = []
    for metric in dict.fromkeys((sweep.objective, *TITLES)):
        title, unit = TITLES.get(metric, (metric, ""))
        found: dict[object, dict[float, list[float]]] = {}
        for row in sweep.scored:
            value = row["objective"] if metric == sweep.objective else row.get(METRIC + metric)
            if row["status"] == FINISHED and value is not None:
                line = found.setdefault(sweep.value(row, "epochs"), {})
                line.setdefault(100 * float(sweep.value(row, FRACTION)), []).append(value)
        series = [
            Series(
                title if epochs is None else f"{figure(epochs)} epochs",
                np.array(sorted(line)),
                np.array([np.mean(line[x]) for x in sorted(line)]),
            )
            for epochs, line in sorted(found.items(), key=lambda pair: str(pair[0]))
        ]
        if series:
            charts.append(
                line_chart(
                    title,
                    series,
                    x_label="share of the training images, %",
                    unit=unit,
                    log_x=True,
                )
            )
    return charts
