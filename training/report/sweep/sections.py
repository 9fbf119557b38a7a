"""What a sweep's trials say of its parameters."""

import numpy as np

from training.report.charts.bars import named_bars
from training.report.charts.parallel import Scale, parallel_coordinates
from training.report.charts.points import objective_over
from training.report.page import Block, Chart, Charts, Key, Section, Words, missing
from training.report.sweep.axes import ParameterAxis, parameter_axis
from training.report.sweep.importance import explained_share
from training.report.sweep.state import FINISHED, Sweep
from training.report.wording import count, figure

ENOUGH = 10
"""From so many trials on importances are more than a hint."""


def parameter_axes(sweep: Sweep) -> list[ParameterAxis]:
    """Of all swept fields, over the scored trials."""
    space = sweep.plan["space"]
    return [
        parameter_axis(
            name,
            [sweep.value(row, name) for row in sweep.scored],
            str(space[name].get("kind", "")) if isinstance(space[name], dict) else "",
        )
        for name in sweep.parameters
    ]


def objective_section(sweep: Sweep, axes: list[ParameterAxis]) -> Section:
    """The objective over each parameter."""
    blocks: list[Block] = []
    drawn = [_over(sweep, axis) for axis in axes if axis.varies]
    if drawn:
        blocks.append(Charts(charts=drawn))
    blocks += [
        missing(f"All trials have {axis.name} {axis.texts[0]}: there is nothing to draw.")
        for axis in axes
        if not axis.varies
    ]
    return Section(anchor="parameters", title="Objective over each parameter", blocks=blocks)


def _over(sweep: Sweep, axis: ParameterAxis) -> Chart:
    values, best = sweep.objectives(), sweep.best()
    whole = np.array([row["status"] == FINISHED for row in sweep.scored])
    assert best is not None
    keys = (Key("ran to its end", 0, "dot"), Key("stopped, failed or running", 0, "ring"))
    places = axis.values.copy()
    if axis.named:  # trials of the same value beside each other, always the same way
        for place in np.unique(places):
            same = np.flatnonzero(places == place)
            places[same] += np.linspace(-0.12, 0.12, len(same)) if len(same) > 1 else 0
    alt = (
        f"{sweep.title} of {len(values)} trials over {axis.name}: from "
        f"{figure(float(values.min()))} to {figure(float(values.max()))}; the best, "
        f"{figure(float(values[best]))}, at {axis.texts[best]}."
    )
    return objective_over(
        f"over-{axis.name.replace('.', '-')}",
        f"{_unit(sweep)} over {axis.name}",
        places,
        values,
        x_label=axis.name,
        alt=alt,
        whole=whole,
        best=best,
        ticks=axis.ticks(),
        log_x=axis.log,
        keys=keys if not whole.all() else (),
    )


def _unit(sweep: Sweep) -> str:
    return f"{sweep.title}, %" if sweep.objective == "knn" else sweep.title


def parallel_section(sweep: Sweep, axes: list[ParameterAxis]) -> Section:
    """Every trial as a line through all its values."""
    varying = [axis for axis in axes if axis.varies]
    objective = parameter_axis(_unit(sweep), sweep.objectives().tolist(), "uniform")
    blocks: list[Block]
    if not varying or not objective.varies:
        blocks = [missing("There is nothing to compare: the trials do not differ.")]
    else:
        quality = objective.unit_places()
        quality = quality if sweep.highest else 1 - quality
        best = sweep.best()
        assert best is not None
        scales = [Scale(axis.name, axis.unit_places(), axis.unit_ticks()) for axis in varying]
        ends = [(0.0, figure(objective.values.min())), (1.0, figure(objective.values.max()))]
        scales.append(Scale(objective.name, objective.unit_places(), ends))
        settings = ", ".join(f"{axis.name} {axis.texts[best]}" for axis in varying)
        alt = (
            f"Parallel coordinates of {len(quality)} trials over {len(varying)} parameters and the "
            f"objective. The best has {settings}."
        )
        chart = parallel_coordinates(
            "parallel",
            "Trials over all parameters",
            scales,
            quality,
            best=best,
            alt=alt,
            note="A line is a trial; the stronger its colour, the better its objective. The best "
            "one is drawn in the colour of the text.",
        )
        blocks = [Charts(charts=(chart,))]
    return Section(anchor="parallel", title="Parallel coordinates", blocks=blocks)


def importance_section(sweep: Sweep, axes: list[ParameterAxis]) -> Section:
    """How much each parameter explains."""
    values = sweep.objectives()
    shares = [(axis.name, explained_share(axis, values)) for axis in axes if axis.varies]
    known = sorted(
        ((name, 100 * share) for name, share in shares if share is not None),
        key=lambda pair: -pair[1],
    )
    blocks: list[Block] = []
    if known:
        rounded = [(name, float(round(share))) for name, share in known]
        blocks += [
            Words(
                text=f"Share of the variance of {sweep.title} over "
                f"{count(len(values), 'trial')} that each parameter explains alone, adjusted for "
                "its number of values. What parameters do only together is not in it, and stopped "
                "trials count with the last value they had."
            ),
            Charts(charts=(named_bars("importance", "Explained share", rounded, unit="%"),)),
        ]
        if len(values) < ENOUGH:
            blocks.append(
                Words(text=f"With {len(values)} trials these figures are a hint, no more.")
            )
    unknown = [name for name, share in shares if share is None]
    if unknown or not shares:
        which = ", ".join(unknown) or "any parameter"
        blocks.append(missing(f"Too few trials to tell the importance of {which}."))
    return Section(anchor="importance", title="Importance", blocks=blocks)
