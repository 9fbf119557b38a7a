"""Read a sweep and draw its charts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from scipy.stats import rankdata

from pipeline.core.errors import InputError
from training.report.figures import (
    Chart,
    Series,
    colour,
    line_chart,
    log_ticks,
    named_bars,
    new_figure,
)
from training.report.kinds import read_object
from training.report.wording import figure, setting
from training.sweep.config import OBJECTIVES
from training.sweep.description import SWEEP_FILE
from training.sweep.results import Trial, best_trials, finished, read_table

Values = NDArray[np.float64]
TITLES = {"knn": ("kNN", "%"), "heldout_loss": ("held-out loss", "nats")}
"""Names and units of the objectives."""
FRACTION = "data_fraction"
FEW_VALUES = 6
"""Up to so many different numbers are each a group and each a tick."""


class SweepState(NamedTuple):
    """A sweep.

    Attributes:
        plan: its ``sweep.json``.
        trials: all of them, by number.
        objective: the recorded name of the objective.
        title: its name for people.
        unit: of the objective.
        highest: whether a higher objective is better.
        rated: the n trials that have an objective, by number.
        values: their objectives, float64 [n].
        best: the best of them; several are a tie. Finished trials come before others.
    """

    plan: dict[str, Any]
    trials: list[Trial]
    objective: str
    title: str
    unit: str
    highest: bool
    rated: list[Trial]
    values: Values
    best: list[Trial]


def read_sweep(folder: Path) -> SweepState:
    """Read a sweep, finished or not.

    Raises:
        InputError: its plan or its table is damaged.
    """
    path = folder / SWEEP_FILE
    plan = read_object(path)
    try:
        objective = str(plan["objective"]["name"])
        if not isinstance(plan["space"], dict) or objective not in OBJECTIVES:
            raise ValueError(f"objective {objective}")
        int(plan["num_trials"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: wanted an objective and a space ({error})") from error
    trials = read_table(folder)
    rated = [trial for trial in trials if objective in trial.values]
    values = np.array([trial.values[objective] for trial in rated], dtype=np.float64)
    best, highest = best_trials(finished(rated) or rated, objective), OBJECTIVES[objective] == "max"
    title, unit = TITLES[objective]
    return SweepState(plan, trials, objective, title, unit, highest, rated, values, best)


@dataclass(frozen=True)
class Parameter:
    """One swept field over n trials.

    Attributes:
        name: dotted.
        texts: the values as text.
        places: float64 [n] on a linear axis: numbers, their logarithms, or indices of names.
        ticks: places to mark and their texts, as plotly takes them; empty: any round numbers.
        grouped: whether trials form groups of equal values.
    """

    name: str
    texts: list[str]
    places: Values
    ticks: dict[str, object]
    grouped: bool

    @property
    def varies(self) -> bool:
        """Whether trials differ in it."""
        return len(set(self.texts)) > 1


def swept_parameter(name: str, values: Sequence[object], kind: str) -> Parameter:
    """Describe the values of at least one trial; `kind` is that of the parameter's space."""
    texts = list(map(setting, values))
    if not all(type(value) in (int, float) for value in values):
        names = sorted(set(texts), key=_order)
        places = np.array([names.index(text) for text in texts], dtype=np.float64)
        marked: dict[str, object] = {"tickvals": list(range(len(names))), "ticktext": names}
        return Parameter(name, texts, places, marked, grouped=True)
    numbers = np.array(values, dtype=np.float64)
    known, low, high = np.unique(numbers), float(numbers.min()), float(numbers.max())
    wide = kind in ("grid", "choice") and high >= 20 * low
    log = low > 0 and (kind == "log_uniform" or wide)
    if grouped := len(known) <= FEW_VALUES:
        marks = known.tolist()
    else:
        marks = log_ticks(low, high) if log else []
    places = np.log10(numbers) if log else numbers
    ticks: dict[str, object] = {
        "tickvals": np.log10(marks) if log else marks,
        "ticktext": [figure(mark) for mark in marks],
    }
    return Parameter(name, texts, places, ticks if marks else {}, grouped)


def _order(text: str) -> tuple[float, str]:
    """Sorts numbers and ranges such as `0.05:0.25` by size, then names alphabetically."""
    try:
        return float(text.partition(":")[0]), text
    except ValueError:
        return math.inf, text


def explained_share(parameter: Parameter, objective_N: Values) -> float | None:
    """Share of the objective's variance that a parameter explains alone.

    The coefficient of determination, adjusted for its degrees of freedom
    (1 - (1 - R2) (n - 1) / (n - p - 1), at least 0): of the means of the groups if trials form
    groups of equal values, else of a parabola over the places. It does not see what parameters do
    only together.

    None if there are too few trials or they do not differ.
    """
    total = float(((objective_N - objective_N.mean()) ** 2).sum())
    num_terms = len(set(parameter.texts)) - 1 if parameter.grouped else 2
    num_left = len(objective_N) - num_terms - 1
    if not parameter.varies or total <= 0 or num_left < 1:
        return None
    if parameter.grouped:
        _, groups = np.unique(parameter.texts, return_inverse=True)
        fitted = (np.bincount(groups, objective_N) / np.bincount(groups))[groups]
    else:
        fitted = np.polynomial.Polynomial.fit(parameter.places, objective_N, 2)(parameter.places)
    left = float(((objective_N - fitted) ** 2).sum()) / total
    return max(0.0, 1 - left * (len(objective_N) - 1) / num_left)


def importance_chart(
    sweep: SweepState, parameters: Sequence[Parameter]
) -> tuple[Chart | None, str]:
    """Draw the share of variance that each parameter explains.

    Returns:
        The chart, and the names of the parameters whose share is not known.
    """
    shares = {one.name: explained_share(one, sweep.values) for one in parameters}
    unknown = ", ".join(name for name, share in shares.items() if share is None)
    known = [(name, round(100 * share)) for name, share in shares.items() if share is not None]
    known.sort(key=lambda pair: -pair[1])
    return (named_bars("Explained share, %", known) if known else None), unknown


def objective_chart(sweep: SweepState, parameter: Parameter) -> Chart:
    """Draw the objective of all trials over one parameter; the best is ringed."""
    values, title = sweep.values, sweep.title
    texts = np.array([_hover(sweep, trial) for trial in sweep.rated])
    finished = np.array([trial.status == "finished" for trial in sweep.rated])
    best = np.array([trial in sweep.best for trial in sweep.rated])
    drawn = new_figure(xaxis_title=parameter.name, yaxis_title=f"{title}, {sweep.unit}")
    for chosen, hover, marker in (
        (finished, "text", {"color": colour(0), "size": 8, "opacity": 0.8}),
        (~finished, "text", {"color": colour(0), "symbol": "circle-open"}),
        (best, "skip", {"color": "var(--ink)", "symbol": "circle-open", "size": 15}),
    ):
        points = {"x": parameter.places[chosen], "y": values[chosen], "hovertext": texts[chosen]}
        drawn.add_scatter(**points, mode="markers", marker=marker, hoverinfo=hover)
    drawn.update_xaxes(parameter.ticks)
    low, high, first = figure(values.min()), figure(values.max()), best.argmax()
    alt = (
        f"{title} of {len(values)} trials over {parameter.name}: from {low} to {high}; the best, "
        f"{figure(values[first])}, at {parameter.texts[first]}."
    )
    return Chart(f"{title} over {parameter.name}", drawn, alt)


def _hover(sweep: SweepState, trial: Trial) -> str:
    lines = [f"{sweep.title}: {figure(trial.values[sweep.objective])} {sweep.unit}"]
    lines += [f"{name}: {setting(value)}" for name, value in trial.point.items()]
    return "<br>".join([f"<b>trial {trial.number}</b>, {trial.status}", *map(escape, lines)])


def parallel_chart(sweep: SweepState, parameters: Sequence[Parameter]) -> Chart:
    """Draw every trial as a line through its values of the given parameters and its objective."""
    values = sweep.values
    dimensions: list[dict[str, object]] = [
        {"label": one.name, "values": one.places, **one.ticks} for one in parameters
    ]
    dimensions.append({"label": f"{sweep.title}, {sweep.unit}", "values": values})
    ranks = rankdata(values if sweep.highest else -values, method="max") / len(values)
    ranks[[trial in sweep.best for trial in sweep.rated]] = 1.25
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
    return Chart(
        "Trials over all parameters that differ",
        drawn,
        f"Parallel coordinates of {len(values)} trials over {len(parameters)} parameters and the "
        "objective.",
        "Each line is a trial; the stronger its colour, the better its rank, and the best is "
        "orange. Drag along an axis to keep only the trials that pass there; click on the axis to "
        "release them. Drag a name to move its axis.",
        wide=True,
    )


def scaling_charts(sweep: SweepState) -> list[Chart]:
    """Draw kNN and the held-out loss of the finished trials over the share of the data.

    One line per number of epochs; trials with the same values are averaged.
    """
    charts = []
    for metric, words in TITLES.items():
        title = ", ".join(words)
        lines: dict[str, dict[float, list[float]]] = {}
        for trial in finished(sweep.trials):
            if metric in trial.values:
                epochs = trial.point.get("epochs")
                name = title if epochs is None else f"{figure(epochs)} epochs"
                share = 100 * float(trial.point[FRACTION])
                lines.setdefault(name, {}).setdefault(share, []).append(trial.values[metric])
        series = [
            Series(name, np.array(sorted(line)), np.array([np.mean(line[x]) for x in sorted(line)]))
            for name, line in lines.items()
        ]
        if series:
            x_label = "share of the training images, %"
            charts.append(line_chart(title, series, x_label=x_label, log_x=True))
    return charts
