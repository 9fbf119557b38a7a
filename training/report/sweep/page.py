"""The report of a sweep."""

from training.report.config import ReportConfig
from training.report.page import Facts, Page, Section, missing
from training.report.sweep.axes import value_text
from training.report.sweep.sections import (
    importance_section,
    objective_section,
    parallel_section,
    parameter_axes,
)
from training.report.sweep.state import FINISHED, Sweep, read_sweep
from training.report.sweep.trials import plan_section, trials_section
from training.report.wording import count, duration, figure, folder_title

STATES = (FINISHED, "stopped", "failed", "running")


def sweep_page(config: ReportConfig) -> Page:
    """Read a sweep's plan and table.

    Raises:
        InputError: one of them is damaged. A sweep that is unfinished is reported as far as it is.
    """
    sweep = read_sweep(config.folder)
    sections = [trials_section(sweep), plan_section(sweep)]
    if sweep.scored:
        axes = parameter_axes(sweep)
        drawn = [
            objective_section(sweep, axes),
            parallel_section(sweep, axes),
            importance_section(sweep, axes),
        ]
    else:
        text = sweep.problem or f"No trial has a value of {sweep.title} yet."
        drawn = [Section(anchor="parameters", title="Objective", blocks=(missing(text),))]
    return Page(
        title=folder_title(sweep.folder),
        kicker=f"sweep {sweep.plan.get('name') or ''}".strip(),
        place=str(sweep.folder),
        summary=_summary(sweep),
        facts=Facts(pairs=_facts(sweep)),
        sections=[*drawn, *sections],
    )


def _summary(sweep: Sweep) -> str:
    ended = sum(number for state, number in sweep.counts().items() if state != "running")
    planned = max(sweep.num_trials, len(sweep.rows))
    if sweep.summary is not None and ended >= planned:
        stands = f"Finished: {count(ended, 'trial')}."
    else:
        stands = f"Unfinished: {ended} of {planned} trials have ended; it may still be running."
    best = sweep.best()
    if best is None:
        return stands
    row = sweep.scored[best]
    settings = ", ".join(
        f"{name} {value_text(sweep.value(row, name))}" for name in sweep.parameters
    )
    looked_for = "highest" if sweep.highest else "lowest"
    return (
        f"{stands} The {looked_for} {sweep.title} is {figure(row['objective'])}, of trial "
        f"{row['trial']}: {settings}."
    )


def _facts(sweep: Sweep) -> list[tuple[str, str]]:
    counts = sweep.counts()
    facts = [(f"trials {state}", count(counts[state])) for state in STATES if counts.get(state)]
    best = sweep.best()
    unit = " %" if sweep.objective == "knn" else ""
    score = "none yet" if best is None else figure(sweep.scored[best]["objective"]) + unit
    epochs = sum(float(row["epochs"] or 0) for row in sweep.rows)
    seconds = sum(float(row["seconds"] or 0) for row in sweep.rows)
    return [
        (f"best {sweep.title}", score),
        *facts,
        ("parameters", count(len(sweep.parameters))),
        ("epochs trained", figure(epochs)),
        ("time over all trials", duration(seconds)),
    ]
