"""What a sweep found: a table in a file and on the terminal, the best trial's configuration."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.atomic import atomic_file, write_atomically
from training.core.fields import Plain
from training.sweep.config import Sweep
from training.sweep.ledger import Trial

RESULTS_FILE, SUMMARY_FILE, BEST_FILE = "results.parquet", "summary.json", "best.json"
RECORD_KEY = b"salmask"
FIXED_COLUMNS = pa.schema(
    [
        ("trial", pa.int64()),
        ("status", pa.string()),
        ("epochs", pa.float64()),
        ("objective", pa.float64()),
        ("seconds", pa.float64()),
        ("run", pa.string()),
        ("message", pa.string()),
    ]
)
METRIC_PREFIX, CLASH_PREFIX = "metric.", "space."
FEWEST_RANKED = 3
"""Trials from which on a rank correlation says anything."""


def best_trial(sweep: Sweep, trials: Sequence[Trial]) -> Trial | None:
    """The trial with the best objective among those that ran to their end.

    Of equal ones the first. None where none finished with a number.
    """
    rated = [
        trial
        for trial in trials
        if trial.status == "finished" and objective_of(sweep, trial) is not None
    ]
    sign = 1 if sweep.mode == "max" else -1

    def rank(trial: Trial) -> tuple[float, int]:
        objective = objective_of(sweep, trial)
        assert objective is not None
        return (sign * objective, -trial.number)

    return max(rated, key=rank, default=None)


def objective_of(sweep: Sweep, trial: Trial) -> float | None:
    """The last value of what the trial is judged by."""
    return trial.values.get(sweep.objective)


def results_table(sweep: Sweep, trials: Sequence[Trial], description: dict[str, Any]) -> pa.Table:
    """One row a trial, in the order of their numbers; the description in the metadata."""
    metrics = sorted({name for trial in trials for name in trial.values})
    rows = [
        {
            "trial": trial.number,
            "status": trial.status,
            "epochs": trial.epochs,
            "objective": objective_of(sweep, trial),
            "seconds": trial.seconds,
            "run": trial.run,
            "message": trial.message,
        }
        for trial in trials
    ]
    columns = {name: [row[name] for row in rows] for name in FIXED_COLUMNS.names}
    table = pa.table(columns, schema=FIXED_COLUMNS)
    for name in metrics:
        values = [trial.values.get(name) for trial in trials]
        table = table.append_column(METRIC_PREFIX + name, pa.array(values, pa.float64()))
    for name in sweep.space:
        column = CLASH_PREFIX + name if name in FIXED_COLUMNS.names else name
        table = table.append_column(column, _column([trial.point[name] for trial in trials]))
    return table.replace_schema_metadata({RECORD_KEY: json.dumps(description).encode()})


def _column(values: Sequence[Plain]) -> pa.Array:
    """Values of one kind as they are, whole numbers among others as such, mixed ones as text."""
    kinds = {type(value) for value in values}
    if kinds == {int, float}:
        return pa.array([float(value) for value in values], pa.float64())
    return pa.array(list(values) if len(kinds) == 1 else [str(value) for value in values])


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's: the correlation of the ranks, equal values sharing the mean of theirs.

    Returns:
        A number in [-1, 1]; None for fewer than 3 pairs, or where all of one are equal.
    """
    if len(first) < FEWEST_RANKED:
        return None
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (first, second)]
    if min(float(np.ptp(row)) for row in ranks) == 0:
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: np.ndarray[Any, np.dtype[np.float64]] = (ends - (counts - 1) / 2)[places]
    return means


def summary(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, Any]:
    """``summary.json``: how many trials ended how, the best, and what goes with what."""
    best = best_trial(sweep, trials)
    counts = Counter(trial.status for trial in trials)
    pairs = [
        (trial.values["heldout_loss"], trial.values["knn"])
        for trial in trials
        if trial.status == "finished" and {"heldout_loss", "knn"} <= trial.values.keys()
    ]
    found = rank_correlation(*zip(*pairs, strict=True)) if pairs else None
    return {
        "counts": {name: counts[name] for name in ("finished", "stopped", "failed", "running")},
        "best": best
        and {
            "trial": best.number,
            "objective": objective_of(sweep, best),
            "values": best.point,
        },
        "rank_correlation": {} if found is None else {"heldout_loss with knn": found},
        "seconds": sum(trial.seconds for trial in trials),
    }


def write_results(sweep: Sweep, trials: Sequence[Trial], description: dict[str, Any]) -> None:
    """Writes the table of the trials so far."""
    with atomic_file(sweep.folder / RESULTS_FILE) as file:
        pq.write_table(results_table(sweep, trials, description), file)


def write_summary(sweep: Sweep, trials: Sequence[Trial]) -> Path | None:
    """Writes the summary, and the best trial's configuration.

    Returns:
        The file that ``jobs/pretrain.py --config`` takes; None where no trial finished.
    """
    text = json.dumps(summary(sweep, trials), indent=1)
    write_atomically(sweep.folder / SUMMARY_FILE, text.encode() + b"\n")
    best = best_trial(sweep, trials)
    if best is None:
        return None
    config = sweep.trial_config(best.number, best.point).to_json()
    del config["out"]
    path = sweep.folder / BEST_FILE
    write_atomically(path, json.dumps(config, indent=2).encode() + b"\n")
    return path


def terminal_table(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """The trials, best first, those without a number last."""
    sign = 1 if sweep.mode == "max" else -1

    def order(trial: Trial) -> tuple[bool, float, int]:
        objective = objective_of(sweep, trial)
        return (objective is None, -sign * (objective or 0.0), trial.number)

    others = sorted({name for trial in trials for name in trial.values} - {sweep.objective})
    shown = [name for name in others if name in ("knn", "heldout_loss")]
    lines = [["trial", "status", "epochs", sweep.objective, *shown, *sweep.space, "seconds"]]
    for trial in sorted(trials, key=order):
        numbers = [trial.values.get(name) for name in (sweep.objective, *shown)]
        lines.append(
            [
                str(trial.number),
                trial.status,
                f"{trial.epochs:g}",
                *("" if number is None else f"{number:.4g}" for number in numbers),
                *(_cell(trial.point[name]) for name in sweep.space),
                f"{trial.seconds:.0f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _cell(value: Plain) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
