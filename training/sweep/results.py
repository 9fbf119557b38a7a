"""The results of a sweep: a table, a summary, and the best trial's configuration."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import binom, spearmanr

from pipeline.core.errors import InputError
from pipeline.storage.atomic import atomic_file, write_atomically
from training.evaluate.intervals import TAIL
from training.sweep.config import OBJECTIVES, SWEEP_FILE, Sweep, run_folder, trial_config
from training.sweep.space import Point

RESULTS_FILE, SUMMARY_FILE, BEST_FILE = "results.parquet", "summary.json", "best.json"
FIXED_COLUMNS = {
    "trial": pa.int64(),
    "status": pa.string(),
    "epochs": pa.float64(),
    "objective": pa.float64(),
    "seconds": pa.float64(),
    "run": pa.string(),
    "message": pa.string(),
}
METRIC_PREFIX, CLASH_PREFIX = "metric.", "space."
"""Of columns of figures, and of swept fields that have the name of a fixed column."""
FEWEST_RANKED = 3
"""The smallest number of trials that has a rank correlation."""
Status = Literal["finished", "stopped", "failed", "running"]


@dataclass(frozen=True)
class Trial:
    """The state of a trial as of its last report.

    `seconds` is over all of its starts, `values` has its last figures by name, `message` says why
    it failed. A trial that has started and not ended is ``running``.
    """

    number: int
    point: Point
    status: Status = "running"
    epochs: float = 0.0
    seconds: float = 0.0
    values: dict[str, float] = field(default_factory=dict)
    message: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the trial is over."""
        return self.status != "running"

    @property
    def run(self) -> str:
        """The folder of its run, below the sweep's."""
        return str(run_folder(Path(), self.number))


def num_left(sweep: Sweep, trials: Sequence[Trial], *, retry_failed: bool = False) -> int:
    """The number of trials that are still to be run, and of failed ones, if they are retried."""
    over = [t for t in trials if t.ended and not (retry_failed and t.status == "failed")]
    return max(0, sweep.num_trials - len(over))


def best_first(trials: Sequence[Trial], objective: str) -> list[Trial]:
    """All trials, the best first, those without an objective last; equal ones by number."""
    sign = -1 if OBJECTIVES[objective] == "max" else 1
    return sorted(trials, key=lambda t: (sign * t.values.get(objective, sign * math.inf), t.number))


def best_trials(trials: Sequence[Trial], objective: str) -> list[Trial]:
    """The trials with the best objective, by number; several are a tie."""
    ranked = [t for t in best_first(trials, objective) if objective in t.values]
    return [t for t in ranked if t.values[objective] == ranked[0].values[objective]]


def finished(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that ran to their end."""
    return [trial for trial in trials if trial.status == "finished"]


def accuracy_interval(trial: Trial) -> tuple[float, float] | None:
    """The 95 % percentile-bootstrap interval of a trial's kNN accuracy over images, in percent.

    Resampled images have a binomial number of right ones, whose quantiles need no sampling. None
    if the number of images was not recorded.
    """
    images = trial.values.get("knn_images")
    if images is None:
        return None
    low, high = 100 * binom.ppf([TAIL, 1 - TAIL], images, trial.values["knn"] / 100) / images
    return float(low), float(high)


def rank_correlation(trials: Sequence[Trial]) -> tuple[float, int] | None:
    """Spearman's correlation of held-out loss and kNN over the finished trials, and their number.

    None for fewer than 3 trials with both figures, or if all values of one figure are equal.
    """
    wanted = ("heldout_loss", "knn")
    both = [trial.values for trial in finished(trials) if trial.values.keys() >= {*wanted}]
    columns = [[values[name] for values in both] for name in wanted]
    if len(both) < FEWEST_RANKED or any(len(set(column)) < 2 for column in columns):
        return None
    return float(spearmanr(*columns).statistic), len(both)


def write_table(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Write ``results.parquet``: a row per trial, with ``sweep.json`` in the metadata."""
    rows = [
        {
            **vars(trial),
            "trial": trial.number,
            "objective": trial.values.get(sweep.objective),
            "run": trial.run,
        }
        for trial in trials
    ]
    fixed = FIXED_COLUMNS.items()
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in fixed}
    for name in sorted({name for trial in trials for name in trial.values}):
        values = [trial.values.get(name) for trial in trials]
        columns[METRIC_PREFIX + name] = pa.array(values, pa.float64())
    for name in sweep.space:
        column, points = name, [trial.point[name] for trial in trials]
        if name in FIXED_COLUMNS:
            column = CLASH_PREFIX + name
        try:
            columns[column] = pa.array(points)
        except pa.ArrowException:  # values of several types
            columns[column] = pa.array(list(map(str, points)))
    metadata = {"salmask": (sweep.folder / SWEEP_FILE).read_bytes()}
    with atomic_file(sweep.folder / RESULTS_FILE) as file:
        pq.write_table(pa.table(columns, metadata=metadata), file)


def read_table(folder: Path) -> list[Trial]:
    """The trials in ``results.parquet``, by number; none if there is no such file yet.

    Raises `InputError` if the file cannot be read, or is no table of a sweep.
    """
    path, trials = folder / RESULTS_FILE, []
    try:
        for row in pq.read_table(path).to_pylist() if path.is_file() else ():
            point, values = {}, {}
            for name, value in row.items():
                if name.startswith(METRIC_PREFIX):
                    if value is not None and math.isfinite(value):
                        values[name.removeprefix(METRIC_PREFIX)] = value
                elif name not in FIXED_COLUMNS:
                    point[name.removeprefix(CLASH_PREFIX)] = value
            kept = {name: row[name] for name in ("status", "epochs", "seconds", "message")}
            trials.append(Trial(row["trial"], point, values=values, **kept))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except KeyError as error:
        raise InputError(f"{path} is no table of a sweep: it has no column {error}") from error
    return sorted(trials, key=lambda trial: trial.number)


def write_results(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, Any]:
    """Write the table, ``summary.json`` and, if a trial finished, the configuration of the best.

    Of tied trials the first one's configuration is written. Returns the summary, whose ``best`` is
    None if no trial finished. Raises `InputError` if all trials have ended without an objective.
    """
    write_table(sweep, trials)
    counts = Counter(trial.status for trial in trials)
    best, correlation = None, rank_correlation(trials)
    if tied := best_trials(finished(trials), sweep.objective):
        best = {
            "trial": tied[0].number,
            "objective": tied[0].values[sweep.objective],
            "interval": accuracy_interval(tied[0]) if sweep.objective == "knn" else None,
            "tied": [trial.number for trial in tied],  # all trials with this objective
            "values": tied[0].point,
        }
        config = trial_config(sweep.base, tied[0].number, tied[0].point).to_json()
        del config["out"]
        write_atomically(sweep.folder / BEST_FILE, json.dumps(config, indent=2).encode() + b"\n")
    summary = {
        "counts": {name: counts[name] for name in get_args(Status)},
        "best": best,
        "rank_correlation": {"heldout_loss with knn": correlation[0]} if correlation else {},
        "seconds": sum(trial.seconds for trial in trials),
    }
    write_atomically(sweep.folder / SUMMARY_FILE, json.dumps(summary, indent=1).encode() + b"\n")
    over = [trial for trial in trials if trial.status in ("finished", "stopped")]
    if over and not best_trials(over, sweep.objective) and not num_left(sweep, trials):
        raise InputError(f"no trial reported its {sweep.objective}: there is nothing to compare")
    return summary


def terminal_table(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """The trials as text: the best first, those without an objective last."""
    reported = {name for trial in trials for name in trial.values} - {sweep.objective}
    figures = [sweep.objective, *sorted(reported & OBJECTIVES.keys())]
    lines = [["trial", "status", "epochs", *figures, *sweep.space, "seconds"]]
    for trial in best_first(trials, sweep.objective):
        cells: list[object] = [trial.number, trial.status, trial.epochs]
        cells += [trial.values.get(name, "") for name in figures]
        cells += [*(trial.point[name] for name in sweep.space), round(trial.seconds)]
        lines.append([f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)
