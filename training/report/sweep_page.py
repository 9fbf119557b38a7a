"""The report of a sweep."""

from typing import Any

from pipeline.core.progress import duration
from training.report.config import ReportConfig
from training.report.sweep.charts import (
    importance_chart,
    objective_chart,
    parallel_chart,
    scaling_charts,
    titled,
)
from training.report.sweep.parameters import swept_parameter, value_text
from training.report.sweep.state import FINISHED, FRACTION, METRIC, Row, Sweep, read_sweep
from training.report.wording import count, figure, folder_title

STATES = (FINISHED, "stopped", "failed", "running")


def sweep_page(config: ReportConfig) -> dict[str, Any]:
    """Read a sweep's plan and table for `sweep.html`; the sweep may be unfinished.

    Raises:
        InputError: the plan or the table is damaged.
    """
    sweep = read_sweep(config.folder)
    parameters = [
        swept_parameter(
            name,
            [sweep.value(row, name) for row in sweep.scored],
            str(entry.get("kind", "")) if isinstance(entry, dict) else "",
        )
        for name, entry in (sweep.plan["space"].items() if sweep.scored else ())
    ]
    varying = [one for one in parameters if one.varies]
    importance, unknown = importance_chart(sweep, varying) if varying else (None, "any parameter")
    scaling = FRACTION in sweep.parameters
    return {
        "title": folder_title(sweep.folder),
        "kicker": f"sweep {sweep.plan.get('name') or ''}".strip(),
        "folder": sweep.folder,
        "summary": _summary(sweep),
        "facts": _facts(sweep),
        "sweep": sweep,
        "parameters": parameters,
        "objectives": [objective_chart(sweep, one) for one in varying],
        "parallel": parallel_chart(sweep, varying) if varying else None,
        "importance": importance,
        "unknown": unknown,
        "scaling": scaling_charts(sweep) if scaling and len(sweep.fractions()) > 1 else [],
        "scales": scaling,
        "correlation": sweep.rank_correlation(),
        "trials": _trials(sweep),
        "plan": _plan(sweep),
    }


def _summary(sweep: Sweep) -> str:
    ended = sum(row["status"] != "running" for row in sweep.rows)
    planned = max(int(sweep.plan.get("num_trials") or 0), len(sweep.rows))
    if sweep.ended and ended >= planned:
        stands = f"Finished: {count(ended, 'trial')}."
    else:
        stands = f"Unfinished: {ended} of {planned} trials have ended; it may still be running."
    return f"{stands} {_best(sweep)}" if sweep.best else stands


def _best(sweep: Sweep) -> str:
    """The best trial, or the tied ones, with the interval if it is known."""
    rows = [sweep.scored[i] for i in sweep.best]
    score = _score(sweep, rows[0])
    said = f"The {'highest' if sweep.highest else 'lowest'} {sweep.title} is {score}"
    if len(rows) > 1:
        names = ", ".join(str(row["trial"]) for row in rows[:-1])
        said += f", a tie of the trials {names} and {rows[-1]['trial']}."
    else:
        settings = ", ".join(
            f"{name} {value_text(sweep.value(rows[0], name))}" for name in sweep.parameters
        )
        said += f", of trial {rows[0]['trial']}: {settings}."
    if sweep.interval is None:
        why = "its number of images" if sweep.objective == "knn" else "its spread over images"
        return f"{said} It has no interval: {why} is not recorded."
    low, high, images = sweep.interval
    within = sum(row["objective"] >= low for row in sweep.scored) - len(rows)
    others = (
        count(within, "other trial lies", "other trials lie") if within else "no other trial lies"
    )
    return (
        f"{said} Its 95 % interval is {figure(low)} to {figure(high)} % (Wilson, "
        f"{count(images, 'image')}); {others} in it."
    )


def _score(sweep: Sweep, row: Row) -> str:
    return f"{figure(row['objective'])} {sweep.unit}".strip()


def _facts(sweep: Sweep) -> list[tuple[str, str]]:
    states = [row["status"] for row in sweep.rows]
    score = _score(sweep, sweep.scored[sweep.best[0]]) if sweep.best else "none yet"
    facts = [(f"best {sweep.title}", score)]
    if sweep.interval is not None:
        facts.append(("95 % interval", "{:.4g} to {:.4g} %".format(*sweep.interval)))
    return [
        *facts,
        *((f"trials {name}", count(states.count(name))) for name in STATES if name in states),
        ("parameters", count(len(sweep.parameters))),
        ("epochs trained", figure(sum(float(row["epochs"] or 0) for row in sweep.rows))),
        ("time over all trials", duration(sum(float(row["seconds"] or 0) for row in sweep.rows))),
    ]


def _trials(sweep: Sweep) -> dict[str, Any]:
    """The table of all trials, the best objective first."""
    metrics = sorted({name for row in sweep.rows for name in row if name.startswith(METRIC)})
    metrics = [name for name in metrics if name != METRIC + sweep.objective]
    best = {sweep.scored[i]["trial"] for i in sweep.best}
    sign = -1 if sweep.highest else 1
    rows = sorted(sweep.scored, key=lambda row: sign * row["objective"])
    rows += [row for row in sweep.rows if row not in sweep.scored]
    texts = [
        3 + place
        for place, name in enumerate(sweep.parameters)
        if any(isinstance(sweep.value(row, name), str | bool | None) for row in rows)
    ]
    head = ["trial", titled(sweep), "status", *sweep.parameters, "epochs trained", "time"]
    head += [name.removeprefix(METRIC) for name in metrics]
    return {
        "head": head,
        "rows": [
            [
                str(row["trial"]),
                figure(row["objective"]),
                str(row["status"]),
                *(value_text(sweep.value(row, name)) for name in sweep.parameters),
                figure(row["epochs"]),
                duration(float(row["seconds"] or 0)),
                *(figure(row.get(name)) for name in metrics),
            ]
            for row in rows
        ],
        "numeric": [place for place in range(len(head)) if place not in (2, *texts)],
        "marked": [i for i, row in enumerate(rows) if row["trial"] in best],
    }


def _plan(sweep: Sweep) -> list[tuple[str, str]]:
    scheduler = sweep.plan.get("scheduler") or {}
    space = [
        (name, _space(entry if isinstance(entry, dict) else {}))
        for name, entry in sweep.plan["space"].items()
    ]
    return [
        *space,
        ("search", str(sweep.plan.get("search", "not recorded"))),
        ("scheduler", ", ".join(f"{key} {figure(value)}" for key, value in scheduler.items())),
        ("seed", figure(sweep.plan.get("seed"))),
        ("digest of the shards' plan", str(sweep.plan.get("data_digest", "not recorded"))),
    ]


def _space(entry: dict[str, Any]) -> str:
    kind = str(entry.get("kind", "unknown")).replace("_", " ")
    if "values" in entry:
        return f"{kind}: {', '.join(map(value_text, entry['values']))}"
    return f"{kind}: {figure(entry.get('low'))} to {figure(entry.get('high'))}"
