"""A sweep's trials, by the files in its folder."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from training.report.kinds import SWEEP_FILE, read_object

RESULTS_FILE, SUMMARY_FILE = "results.parquet", "summary.json"
FIXED = ("trial", "status", "epochs", "objective", "seconds", "run", "message")
METRIC, SPACE = "metric.", "space."
FINISHED = "finished"


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
        folder: where it lies.
        plan: its ``sweep.json``.
        rows: of its table, one a trial that was started, in order of their numbers.
        problem: why there is no table; empty: there is one.
        summary: what was written at its end; None where it has not come to an end.
    """

    folder: Path
    plan: dict[str, Any]
    rows: list[dict[str, Any]]
    problem: str
    summary: dict[str, Any] | None

    @property
    def objective(self) -> str:
        """Name of what was looked for."""
        return str(self.plan["objective"]["name"])

    @property
    def title(self) -> str:
        """The objective as people call it."""
        return {"knn": "kNN", "heldout_loss": "held-out loss"}.get(self.objective, self.objective)

    @property
    def highest(self) -> bool:
        """Whether more of it is better."""
        return bool(self.plan["objective"]["mode"] == "max")

    @property
    def num_trials(self) -> int:
        """Trials that were planned."""
        return int(self.plan.get("num_trials") or len(self.rows))

    @property
    def parameters(self) -> list[str]:
        """Names of the swept fields."""
        return list(self.plan["space"])

    @property
    def scored(self) -> list[dict[str, Any]]:
        """Rows of the trials that have a finite objective."""
        return [row for row in self.rows if _finite(row["objective"])]

    def objectives(self) -> NDArray[np.float64]:
        """Of the scored trials, float64 [n]."""
        return np.array([row["objective"] for row in self.scored], dtype=np.float64)

    def best(self) -> int | None:
        """Index of the best among the scored trials; those that were finished come first."""
        values = self.objectives() if self.highest else -self.objectives()
        if len(values) == 0:
            return None
        finished = np.array([row["status"] == FINISHED for row in self.scored])
        return int(np.argmax(np.where(finished, values, -np.inf) if finished.any() else values))

    def value(self, row: dict[str, Any], parameter: str) -> Any:  # noqa: ANN401
        """A trial's value of a parameter."""
        column = SPACE + parameter if parameter in FIXED else parameter
        return row.get(column)

    def counts(self) -> dict[str, int]:
        """How many trials stand how."""
        found: dict[str, int] = {}
        for row in self.rows:
            found[row["status"]] = found.get(row["status"], 0) + 1
        return found


def read_sweep(folder: Path) -> Sweep:
    """Read a sweep, finished or not.

    Raises:
        InputError: its plan or its table is damaged.
    """
    plan = read_object(folder / SWEEP_FILE)
    wrong = [name for name in ("objective", "space") if not isinstance(plan.get(name), dict)]
    if wrong:
        raise InputError(f"{folder / SWEEP_FILE} is damaged: {wrong[0]!r} is missing or no object")
    objective: Any = plan["objective"]
    if "name" not in objective or objective.get("mode") not in ("max", "min"):
        raise InputError(
            f"{folder / SWEEP_FILE} is damaged: its objective wants a name and a mode, max or min"
        )
    rows, problem = _rows(folder / RESULTS_FILE)
    summary: dict[str, Any] | None = None
    if (folder / SUMMARY_FILE).is_file():
        summary = read_object(folder / SUMMARY_FILE)
    return Sweep(folder, plan, rows, problem, summary)


def _rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    if not path.is_file():
        return [], f"{path.name} is not there: no trial has ended yet."
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    absent = set(FIXED) - set(rows[0]) if rows else set()
    if absent:
        raise InputError(f"{path} is no table of a sweep: it has no column {min(absent)!r}")
    return sorted(rows, key=lambda row: int(row["trial"])), ""


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
