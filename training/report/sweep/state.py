"""Read the trials of a sweep from the files in its folder."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import binomtest, spearmanr

from pipeline.core.errors import InputError
from training.report.kinds import SWEEP_FILE, read_object

RESULTS_FILE, SUMMARY_FILE = "results.parquet", "summary.json"
FIXED = ("trial", "status", "epochs", "objective", "seconds", "run", "message")
METRIC, SPACE = "metric.", "space."
FINISHED = "finished"
KNN, HELDOUT, FRACTION = "knn", "heldout_loss", "data_fraction"
TITLES = {KNN: ("kNN", "%"), HELDOUT: ("held-out loss", "nats")}
FEWEST_RANKED = 3
"""Trials, or fractions of the data, from which on a rank correlation is given."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
        folder: its folder.
        plan: its ``sweep.json``.
        rows: one for each trial that was started, in the order of their numbers.
        ended: whether the sweep has written its summary.
    """

    folder: Path
    plan: dict[str, Any]
    rows: list[Row]
    ended: bool

    @property
    def objective(self) -> str:
        """The recorded name of the objective."""
        return str(self.plan["objective"]["name"])

    @property
    def title(self) -> str:
        """The objective's name for people."""
        return TITLES.get(self.objective, (self.objective, ""))[0]

    @property
    def unit(self) -> str:
        """The objective's unit; empty if unknown."""
        return TITLES.get(self.objective, ("", ""))[1]

    @property
    def highest(self) -> bool:
        """Whether a higher objective is better."""
        return bool(self.plan["objective"]["mode"] == "max")

    @property
    def parameters(self) -> list[str]:
        """Names of the swept fields."""
        return list(self.plan["space"])

    @cached_property
    def scored(self) -> list[Row]:
        """The trials that have a finite objective."""
        return [row for row in self.rows if _finite(row["objective"])]

    @cached_property
    def best(self) -> list[int]:
        """Indices of the best scored trials: more than one is a tie.

        Trials that ran to their end come before all others. Empty if no trial has an objective.
        """
        finished = [i for i, row in enumerate(self.scored) if row["status"] == FINISHED]
        values = self.objectives() if self.highest else -self.objectives()
        ranked = finished or list(range(len(values)))
        return [i for i in ranked if values[i] == values[ranked].max()]

    @cached_property
    def interval(self) -> tuple[float, float, int] | None:
        """Wilson's 95 % interval of the best kNN in percent, and its number of images.

        None for another objective, or if the number of images was not recorded.
        """
        if self.objective != KNN or not self.best:
            return None
        row = self.scored[self.best[0]]
        images = row.get(METRIC + "knn_images")
        if not _finite(images) or not images:
            return None
        right = round(row["objective"] / 100 * images)
        found = binomtest(right, int(images)).proportion_ci(method="wilson")
        return 100 * float(found.low), 100 * float(found.high), int(images)

    def objectives(self) -> NDArray[np.float64]:
        """Of the scored trials, float64 [n]."""
        return np.array([row["objective"] for row in self.scored], dtype=np.float64)

    def value(self, row: Row, parameter: str) -> Any:  # noqa: ANN401
        """A trial's value of a parameter."""
        return row.get(SPACE + parameter if parameter in FIXED else parameter)

    def fractions(self) -> list[float]:
        """Different fractions of the data among the finished trials, ascending."""
        if FRACTION not in self.parameters:
            return []
        rows = [row for row in self.scored if row["status"] == FINISHED]
        return sorted({float(self.value(row, FRACTION)) for row in rows})

    def rank_correlation(self) -> tuple[float, int] | None:
        """Spearman's correlation of held-out loss and kNN, and the number of finished trials.

        None for too few trials or fractions of the data, or if one of the two is constant.
        """
        names = METRIC + HELDOUT, METRIC + KNN
        pairs = [
            [row[name] for name in names]
            for row in self.rows
            if row["status"] == FINISHED and all(_finite(row.get(name)) for name in names)
        ]
        too_few = FRACTION in self.parameters and len(self.fractions()) < FEWEST_RANKED
        if len(pairs) < FEWEST_RANKED or too_few or np.ptp(pairs, axis=0).min() == 0:
            return None
        return float(spearmanr(pairs).statistic), len(pairs)


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
            f"{folder / SWEEP_FILE} is damaged: its objective needs a name and a mode, max or min"
        )
    ended = (folder / SUMMARY_FILE).is_file() and bool(read_object(folder / SUMMARY_FILE))
    return Sweep(folder, plan, _rows(folder / RESULTS_FILE), ended)


def _rows(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    absent = set(FIXED) - set(rows[0]) if rows else set()
    if absent:
        raise InputError(f"{path} is no table of a sweep: it has no column {min(absent)!r}")
    return sorted(rows, key=lambda row: int(row["trial"]))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
