"""The report of a sweep."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import plotly.graph_objects as go
from scipy.stats import rankdata

from pipeline.core.errors import InputError
from pipeline.core.progress import duration
from training.config.fields import dotted
from training.report import figures
from training.report.config import ReportConfig
from training.report.figures import Chart, Values, colour, new_figure
from training.report.state import read_object
from training.report.wording import figure, setting
from training.sweep import results
from training.sweep.config import OBJECTIVES, SWEEP_FILE
from training.sweep.results import Status, Trial, finished

FRACTION = "data_fraction"
FEW_VALUES = 6
"""Up to so many different numbers are each a group and each a tick."""
TITLES = {"knn": ("kNN", "%"), "heldout_loss": ("held-out loss", "nats")}
"""Names and units of the objectives of a sweep."""
SEEN = {"seen_loss": ("the same loss on seen images", "nats")}


class SweepState(NamedTuple):
    """A sweep; trials are in the order of their numbers."""

    plan: dict[str, Any]  # sweep.json
    trials: list[Trial]
    objective: str  # recorded name
    title: str  # of the objective, for people
    unit: str
    highest: bool  # whether a higher objective is better
    rated: list[Trial]  # the n trials that have an objective
    values: Values  # their objectives, float64 [n]
    best: list[Trial]  # of the finished ones if there are any; several are a tie


def read_sweep(folder: Path) -> SweepState:
    """Read a sweep, finished or not; raises `InputError` if its plan or its table is damaged."""
    path = folder / SWEEP_FILE
    plan = read_object(path)
    try:
        objective = str(plan["objective"]["name"])
        if not isinstance(plan["space"], dict) or objective not in OBJECTIVES:
            raise ValueError(f"objective {objective}")
        int(plan["num_trials"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: wanted an objective and a space ({error})") from error
    trials = results.read_table(folder)
    rated = [trial for trial in trials if objective in trial.values]
    values = np.array([trial.values[objective] for trial in rated], dtype=np.float64)
    best = results.best_trials(finished(rated) or rated, objective)
    highest = OBJECTIVES[objective] == "max"
    return SweepState(plan, trials, objective, *TITLES[objective], highest, rated, values, best)


def sweep_page(config: ReportConfig) -> dict[str, Any]:
    """Read a sweep's plan and table for `sweep.html`; raises as `read_sweep` does."""
    sweep = read_sweep(config.folder)
    space, num_trials = sweep.plan["space"], int(sweep.plan["num_trials"])
    parameters = [
        swept_parameter(name, [trial.point[name] for trial in sweep.rated], domain["kind"])
        for name, domain in (space.items() if sweep.rated else ())
    ]
    varying = [one for one in parameters if one.varies]
    shares = {one.name: explained_share(one, sweep.values) for one in varying}
    known = [(name, round(100 * share)) for name, share in shares.items() if share is not None]
    known.sort(key=lambda pair: -pair[1])
    unknown = ", ".join(name for name, share in shares.items() if share is None)
    interval = None
    if sweep.best and sweep.objective == "knn":
        interval = results.accuracy_interval(sweep.best[0])
    scales = FRACTION in space
    fractions = {trial.point.get(FRACTION) for trial in finished(sweep.rated)}
    ranked = not scales or len(fractions) >= results.FEWEST_RANKED
    settings = {name: setting(value) for name, value in dotted(sweep.plan).items()}
    return {
        "sweep": sweep,
        "num_ended": sum(trial.ended for trial in sweep.trials),
        "num_planned": max(num_trials, len(sweep.trials)),
        "statuses": get_args(Status),
        "interval": interval,
        "num_within": int((sweep.values >= interval[0]).sum()) - len(sweep.best) if interval else 0,
        "parameters": parameters,
        "objectives": [objective_chart(sweep, one) for one in varying],
        "parallel": parallel_chart(sweep, varying) if varying else None,
        "importance": figures.named_bars("Explained share, %", known) if known else None,
        "unknown": unknown if varying else "any parameter",
        "scales": scales,
        "scaling": scaling_charts(sweep) if scales and len(fractions) > 1 else [],
        "correlation": results.rank_correlation(sweep.trials) if ranked else None,
        "trials": _trials(sweep),
        "settings": [pair for pair in settings.items() if not pair[0].startswith("config.")],
    }


class Parameter(NamedTuple):
    """One swept field over n trials."""

    name: str  # dotted
    texts: list[str]  # the values as text
    places: Values  # float64 [n] on a linear axis: numbers, their logarithms, or indices of names
    ticks: dict[str, Any]  # places to mark and their texts, for plotly; empty: round numbers
    grouped: bool  # whether trials form groups of equal values

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
        marked: dict[str, Any] = {"tickvals": list(range(len(names))), "ticktext": names}
        return Parameter(name, texts, places, marked, grouped=True)
    numbers = np.array(values, dtype=np.float64)
    known, low, high = np.unique(numbers), float(numbers.min()), float(numbers.max())
    wide = kind in ("grid", "choice") and high >= 20 * low
    log = low > 0 and (kind == "log_uniform" or wide)
    grouped = len(known) <= FEW_VALUES
    marks = known.tolist() if grouped else figures.log_ticks(low, high) if log else []
    ticks = {
        "tickvals": np.log10(marks) if log else marks,
        "ticktext": [figure(mark) for mark in marks],
    }
    places = np.log10(numbers) if log else numbers
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
    only together. None if there are too few trials or they do not differ.
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


def objective_chart(sweep: SweepState, parameter: Parameter) -> Chart:
    """Draw the objective of all trials over one parameter; the best is ringed."""
    values, title = sweep.values, sweep.title
    best = np.array([trial in sweep.best for trial in sweep.rated])
    symbols = [f"circle{'' if t.status == 'finished' else '-open'}" for t in sweep.rated]
    drawn = new_figure(xaxis_title=escape(parameter.name), yaxis_title=f"{title}, {sweep.unit}")
    texts = []
    for trial, value in zip(sweep.rated, values, strict=True):
        lines = [f"{title}: {figure(float(value))} {sweep.unit}"]
        lines += [f"{name}: {setting(one)}" for name, one in trial.point.items()]
        head = f"<b>trial {trial.number}</b>, {trial.status}"
        texts.append("<br>".join([head, *map(escape, lines)]))
    dots = {"color": colour(0), "size": 8, "symbol": symbols}
    drawn.add_scatter(x=parameter.places, y=values, mode="markers", marker=dots, hovertext=texts)
    ring = {"color": "var(--ink)", "symbol": "circle-open", "size": 15}
    drawn.add_scatter(x=parameter.places[best], y=values[best], mode="markers", marker=ring)
    drawn.data[0].hoverinfo, drawn.data[1].hoverinfo = "text", "skip"
    drawn.update_xaxes(parameter.ticks)
    if parameter.ticks:  # plotly reads HTML in them, and text in those of parallel coordinates
        drawn.update_xaxes(ticktext=[escape(text) for text in parameter.ticks["ticktext"]])
    low, high, first = figure(values.min()), figure(values.max()), best.argmax()
    alt = (
        f"{title} of {len(values)} trials over {parameter.name}: from {low} to {high}; the best, "
        f"{figure(values[first])}, at {parameter.texts[first]}."
    )
    return Chart(f"{title} over {parameter.name}", drawn, alt)


def parallel_chart(sweep: SweepState, parameters: Sequence[Parameter]) -> Chart:
    """Draw every trial as a line through its values of the given parameters and its objective."""
    values = sweep.values
    dimensions: list[dict[str, object]] = [
        {"label": escape(one.name), "values": one.places, **one.ticks} for one in parameters
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
    for metric, words in (TITLES | SEEN).items():
        title, curves = ", ".join(words), {}
        trials = [trial for trial in finished(sweep.trials) if metric in trial.values]
        for epochs in dict.fromkeys(trial.point.get("epochs") for trial in trials):
            line = [trial for trial in trials if trial.point.get("epochs") == epochs]
            shares = np.array([100 * float(trial.point[FRACTION]) for trial in line])
            values = np.array([trial.values[metric] for trial in line])
            x = np.unique(shares)
            name = title if epochs is None else f"{figure(epochs)} epochs"
            curves[name] = x, np.array([values[shares == share].mean() for share in x])
        if curves:
            x_label = "share of the training images, %"
            charts.append(figures.line_chart(title, curves, x_label=x_label, log_x=True))
    return charts


def _trials(sweep: SweepState) -> dict[str, Any]:
    """The table of all trials, the best objective first."""
    trials, swept = results.best_first(sweep.trials, sweep.objective), list(sweep.plan["space"])
    metrics = sorted({name for trial in trials for name in trial.values} - {sweep.objective})
    objective = f"{sweep.title}, {sweep.unit}"
    head = ["trial", objective, "status", *swept, "epochs trained", "time", *metrics]
    rows, texts = [], {"status"}
    for trial in trials:
        value, *numbers = (figure(trial.values.get(one)) for one in (sweep.objective, *metrics))
        point = [setting(trial.point[name]) for name in swept]
        ran = [figure(trial.epochs), duration(trial.seconds)]
        rows.append([str(trial.number), value, trial.status, *point, *ran, *numbers])
        texts |= {name for name, one in trial.point.items() if isinstance(one, str | bool)}
    return {
        "head": head,
        "rows": rows,
        "numeric": [place for place, name in enumerate(head) if name not in texts],
        "marked": [place for place, trial in enumerate(trials) if trial in sweep.best],
    }
