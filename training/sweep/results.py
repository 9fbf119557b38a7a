"""The results of a sweep: a table, a summary, and the best trial's configuration."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import binom, spearmanr

from pipeline.core.errors import InputError
from pipeline.storage.atomic import atomic_file, write_atomically
from training.config.fields import Plain
from training.evaluate.intervals import TAIL
from training.sweep.config import TRIALS_FOLDER, Sweep
from training.sweep.space import Point

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
"""The smallest number of pairs that has a rank correlation."""
Status = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """The state of a trial.

    Attributes:
        number: from 0.
        point: its values of the swept fields.
        status: ``running`` means started and not ended.
        epochs: epochs trained, as of its last report.
        seconds: duration, over all of its starts.
        values: its last figures, by name.
        message: why it failed.
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


def objective_of(sweep: Sweep, trial: Trial) -> float | None:
    """The last value of what trials are compared by."""
    return trial.values.get(sweep.objective)


def num_left(sweep: Sweep, trials: Sequence[Trial], *, retry_failed: bool = False) -> int:
    """The number of trials that are still to be run.

    Args:
        sweep: the settings.
        trials: all that were started.
        retry_failed: whether failed trials are to be run again.
    """
    over = [t for t in trials if t.ended and not (retry_failed and t.status == "failed")]
    return max(0, sweep.num_trials - len(over))


def best_trials(sweep: Sweep, trials: Sequence[Trial]) -> list[Trial]:
    """The finished trials with the best objective, by number; several are a tie."""
    rated = {
        trial.number: value
        for trial in trials
        if trial.status == "finished" and (value := objective_of(sweep, trial)) is not None
    }
    best = (max if sweep.mode == "max" else min)(rated.values(), default=None)
    return [t for t in trials if t.number in rated and rated[t.number] == best]


def accuracy_interval(percent: float, num_images: int) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval of an accuracy over images, in percent.

    Resampling images with replacement draws the number of right ones from a binomial
    distribution, whose quantiles are taken here without sampling.

    Args:
        percent: the accuracy, 0 to 100.
        num_images: images that it was measured on, 1 or more.
    """
    low, high = binom.ppf([TAIL, 1 - TAIL], num_images, percent / 100)
    return 100 * float(low) / num_images, 100 * float(high) / num_images


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation.

    Returns:
        A number in [-1, 1]; None for fewer than 3 pairs, or where all values of one are equal.
    """
    if len(first) < FEWEST_RANKED or min(len(set(first)), len(set(second))) < 2:
        return None
    return float(spearmanr(first, second).statistic)


def results_table(sweep: Sweep, trials: Sequence[Trial], description: dict[str, Any]) -> pa.Table:
    """One row per trial, in the order of their numbers; the description is in the metadata."""
    metrics = sorted({name for trial in trials for name in trial.values})
    rows = [
        {
            "trial": trial.number,
            "status": trial.status,
            "epochs": trial.epochs,
            "objective": objective_of(sweep, trial),
            "seconds": trial.seconds,
            "run": f"{TRIALS_FOLDER}/{trial.number:04d}",
            "message": trial.message,
        }
        for trial in trials
    ]
    table = pa.Table.from_pylist(rows, schema=FIXED_COLUMNS)
    for name in metrics:
        values = [trial.values.get(name) for trial in trials]
        table = table.append_column(METRIC_PREFIX + name, pa.array(values, pa.float64()))
    for name in sweep.space:
        column = CLASH_PREFIX + name if name in FIXED_COLUMNS.names else name
        table = table.append_column(column, _column([trial.point[name] for trial in trials]))
    return table.replace_schema_metadata({RECORD_KEY: json.dumps(description).encode()})


def _column(values: Sequence[Plain]) -> pa.Array:
    """Values of one type as they are, whole numbers among others as floats, mixed ones as text."""
    kinds = {type(value) for value in values}
    if kinds == {int, float}:
        return pa.array([float(value) for value in values], pa.float64())
    return pa.array(list(values) if len(kinds) == 1 else [str(value) for value in values])


def summary(
    sweep: Sweep, trials: Sequence[Trial], *, val_images: int | None = None
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        sweep: the settings.
        trials: all that were started.
        val_images: images that the kNN accuracy is measured on; None means no interval.

    Returns:
        ``counts`` by status; ``best``: ``trial``, ``objective``, its 95 % ``interval`` or None,
        ``tied`` (the numbers of all trials with this objective) and ``values``;
        ``rank_correlation`` by pair of figures; ``seconds`` of all trials.
    """
    best = best_trials(sweep, trials)
    objective = objective_of(sweep, best[0]) if best else None
    interval = None
    if sweep.objective == "knn" and objective is not None and val_images is not None:
        interval = accuracy_interval(objective, val_images)
    counts = Counter(trial.status for trial in trials)
    pairs = [
        (trial.values["heldout_loss"], trial.values["knn"])
        for trial in trials
        if trial.status == "finished" and {"heldout_loss", "knn"} <= trial.values.keys()
    ]
    found = rank_correlation(*zip(*pairs, strict=True)) if pairs else None
    return {
        "counts": {name: counts[name] for name in ("finished", "stopped", "failed", "running")},
        "best": {
            "trial": best[0].number,
            "objective": objective,
            "interval": interval,
            "tied": [trial.number for trial in best],
            "values": best[0].point,
        }
        if best
        else None,
        "rank_correlation": {} if found is None else {"heldout_loss with knn": found},
        "seconds": sum(trial.seconds for trial in trials),
    }


def write_table(sweep: Sweep, trials: Sequence[Trial], description: dict[str, Any]) -> None:
    """Writes ``results.parquet``."""
    with atomic_file(sweep.folder / RESULTS_FILE) as file:
        pq.write_table(results_table(sweep, trials, description), file)


def write_results(
    sweep: Sweep, trials: Sequence[Trial], description: dict[str, Any]
) -> dict[str, Any]:
    """Writes the table, the `summary` and, where a trial finished, the configuration of the best.

    Of tied trials the first one's configuration is written.

    Returns:
        The summary.

    Raises:
        InputError: all trials have ended, and none of them reported the objective.
    """
    write_table(sweep, trials, description)
    found = summary(sweep, trials, val_images=description["val_images"])
    text = json.dumps(found, indent=1)
    write_atomically(sweep.folder / SUMMARY_FILE, text.encode() + b"\n")
    if (best := found["best"]) is not None:
        config = sweep.trial_config(best["trial"], best["values"]).to_json()
        del config["out"]
        text = json.dumps(config, indent=2)
        write_atomically(sweep.folder / BEST_FILE, text.encode() + b"\n")
    over = [trial for trial in trials if trial.status in ("finished", "stopped")]
    silent = all(objective_of(sweep, trial) is None for trial in over)
    if over and silent and not num_left(sweep, trials):
        raise InputError(f"no trial reported its {sweep.objective}: there is nothing to compare")
    return found


def terminal_table(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """The trials as text: the best first, those without an objective last."""
    sign = 1 if sweep.mode == "max" else -1

    def order(trial: Trial) -> tuple[bool, float, int]:
        objective = objective_of(sweep, trial)
        return (objective is None, -sign * (objective or 0.0), trial.number)

    others = {name for trial in trials for name in trial.values} - {sweep.objective}
    figures = [sweep.objective, *sorted(others & {"knn", "heldout_loss"})]
    lines = [["trial", "status", "epochs", *figures, *sweep.space, "seconds"]]
    for trial in sorted(trials, key=order):
        numbers = [trial.values.get(name) for name in figures]
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
