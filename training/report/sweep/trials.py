"""A sweep's table of trials, and what it searched."""

from training.report.page import Block, Section, Table, Words, missing
from training.report.sweep.axes import value_text
from training.report.sweep.state import METRIC, Sweep
from training.report.wording import duration, figure


def trials_section(sweep: Sweep) -> Section:
    """All trials, the best objective first."""
    if not sweep.rows:
        return Section(anchor="trials", title="Trials", blocks=(missing(sweep.problem or "None."),))
    metrics = sorted({name for row in sweep.rows for name in row if name.startswith(METRIC)})
    metrics = [name for name in metrics if name != METRIC + sweep.objective]
    parameters = sweep.parameters
    head = ["trial", sweep.title, "status", *parameters, "epochs trained", "time"]
    head += [name.removeprefix(METRIC) for name in metrics]
    rows = [
        [
            str(row["trial"]),
            figure(row["objective"]),
            str(row["status"]),
            *(value_text(sweep.value(row, name)) for name in parameters),
            figure(row["epochs"]),
            duration(float(row["seconds"] or 0)),
            *(figure(row.get(name)) for name in metrics),
        ]
        for row in sorted(sweep.rows, key=lambda row: _order(sweep, row))
    ]
    texts = [
        3 + place
        for place, name in enumerate(parameters)
        if any(isinstance(sweep.value(row, name), str | bool | None) for row in sweep.rows)
    ]
    numeric = [place for place in range(len(head)) if place not in (2, *texts)]
    best = sweep.best()
    marked = None
    if best is not None:
        marked = [row[0] for row in rows].index(str(sweep.scored[best]["trial"]))
    table = Table(
        caption="All trials that were started; the best one is marked",
        head=head,
        rows=rows,
        numeric=numeric,
        marked=marked,
    )
    failed = [row for row in sweep.rows if row["message"]]
    words = [
        Words(text=f"Trial {row['trial']} failed: {row['message']}", tone="warning")
        for row in failed
    ]
    if best is not None:
        run = sweep.folder / str(sweep.scored[best]["run"])
        words.append(Words(text=f"The run of the best trial lies in {run}."))
    return Section(anchor="trials", title="Trials", blocks=[*words, table])


def _order(sweep: Sweep, row: dict[str, object]) -> tuple[bool, float]:
    value = row["objective"]
    if not isinstance(value, int | float) or value != value:
        return True, 0.0
    return False, float(-value if sweep.highest else value)


def plan_section(sweep: Sweep) -> Section:
    """What was searched, and how."""
    scheduler = sweep.plan.get("scheduler") or {}
    rows = [
        (name, _space(entry if isinstance(entry, dict) else {}))
        for name, entry in sweep.plan["space"].items()
    ]
    rows += [
        ("search", str(sweep.plan.get("search", "not recorded"))),
        ("scheduler", ", ".join(f"{key} {figure(value)}" for key, value in scheduler.items())),
        ("seed", figure(sweep.plan.get("seed"))),
        ("digest of the shards' plan", str(sweep.plan.get("data_digest", "not recorded"))),
    ]
    blocks: list[Block] = [
        Table(caption="Space and search, as recorded", head=("what", "value"), rows=rows)
    ]
    correlations = (sweep.summary or {}).get("rank_correlation") or {}
    blocks += [
        Words(text=f"Rank correlation of {pair}: {figure(value)} (Spearman, finished trials).")
        for pair, value in correlations.items()
    ]
    return Section(anchor="plan", title="Plan", blocks=blocks)


def _space(entry: dict[str, object]) -> str:
    kind = str(entry.get("kind", "unknown")).replace("_", " ")
    if "values" in entry:
        values = entry["values"]
        shown = values if isinstance(values, list) else [values]
        return f"{kind}: {', '.join(value_text(value) for value in shown)}"
    return f"{kind}: {figure(entry.get('low'))} to {figure(entry.get('high'))}"
