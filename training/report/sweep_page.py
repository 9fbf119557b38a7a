"""The report of a sweep."""

from typing import Any, get_args

from pipeline.core.progress import duration
from training.config.fields import dotted
from training.report.config import ReportConfig
from training.report.sweep_charts import (
    FRACTION,
    SweepState,
    importance_chart,
    objective_chart,
    parallel_chart,
    read_sweep,
    scaling_charts,
    swept_parameter,
)
from training.report.wording import figure, setting
from training.sweep.results import (
    FEWEST_RANKED,
    Status,
    accuracy_interval,
    best_first,
    finished,
    rank_correlation,
)


def sweep_page(config: ReportConfig) -> dict[str, Any]:
    """Read a sweep's plan and table for `sweep.html`; the sweep may be unfinished.

    Raises:
        InputError: the plan or the table is damaged.
    """
    sweep = read_sweep(config.folder)
    space, num_trials = sweep.plan["space"], int(sweep.plan["num_trials"])
    parameters = [
        swept_parameter(name, [trial.point[name] for trial in sweep.rated], domain["kind"])
        for name, domain in (space.items() if sweep.rated else ())
    ]
    varying = [one for one in parameters if one.varies]
    importance, unknown = importance_chart(sweep, varying)
    interval = None
    if sweep.best and sweep.objective == "knn":
        interval = accuracy_interval(sweep.best[0])
    scales = FRACTION in space
    fractions = {trial.point.get(FRACTION) for trial in finished(sweep.rated)}
    ranked = not scales or len(fractions) >= FEWEST_RANKED
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
        "importance": importance,
        "unknown": unknown if varying else "any parameter",
        "scales": scales,
        "scaling": scaling_charts(sweep) if scales and len(fractions) > 1 else [],
        "correlation": rank_correlation(sweep.trials) if ranked else None,
        "trials": _trials(sweep),
        "settings": [
            (name, setting(value))
            for name, value in dotted(sweep.plan).items()
            if not name.startswith("config.")
        ],
    }


def _trials(sweep: SweepState) -> dict[str, Any]:
    """The table of all trials, the best objective first."""
    trials, swept = sweep.trials, list(sweep.plan["space"])
    metrics = sorted({name for trial in trials for name in trial.values} - {sweep.objective})
    ranked = best_first(trials, sweep.objective)
    ranked += [trial for trial in trials if trial not in ranked]
    head = [
        "trial",
        f"{sweep.title}, {sweep.unit}",
        "status",
        *swept,
        "epochs trained",
        "time",
        *metrics,
    ]
    points = [item for trial in trials for item in trial.point.items()]
    texts = {"status", *(name for name, value in points if isinstance(value, str | bool))}
    return {
        "head": head,
        "rows": [
            [
                str(trial.number),
                figure(trial.values.get(sweep.objective)),
                trial.status,
                *(setting(trial.point[name]) for name in swept),
                figure(trial.epochs),
                duration(trial.seconds),
                *(figure(trial.values.get(name)) for name in metrics),
            ]
            for trial in ranked
        ],
        "numeric": [place for place, name in enumerate(head) if name not in texts],
        "marked": [place for place, trial in enumerate(ranked) if trial in sweep.best],
    }
