"""The table of a stream: every set's figure after every stage, what was forgotten, and the gap.

Shapes: S stages, T sets.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.storage.atomic import atomic_file
from training.stream.figures import KNN

FORGETTING_FILE = "forgetting.parquet"
UNITS = {"knn": "kNN, %", "heldout_loss": "loss, nats"}


@dataclass(frozen=True)
class Forgetting:
    """The figures of a stream.

    Attributes:
        sets: where each set lies, T.
        kinds: by which figure each is measured, T; of a loss less is better.
        values_ST: of the network after each stage.
        joint_T: of the network that was trained on all sets at once, if there is one.
    """

    sets: tuple[str, ...]
    kinds: tuple[str, ...]
    values_ST: NDArray[np.float64]
    joint_T: NDArray[np.float64] | None = None

    @property
    def signs_T(self) -> NDArray[np.float64]:
        """1 where more is better, -1 where less is."""
        return np.array([1.0 if kind == KNN else -1.0 for kind in self.kinds])

    @property
    def forgotten_ST(self) -> NDArray[np.float64]:
        """How far each set is below its best figure of all stages so far, 0 or more.

        After the last stage S: F_t = max_s A[s, t] - A[S, t].
        """
        good_ST = self.signs_T * self.values_ST
        return np.asarray(np.maximum.accumulate(good_ST, axis=0) - good_ST)

    @property
    def gap_T(self) -> NDArray[np.float64] | None:
        """How far the last stage is below the joint run; above 0: the joint run is better."""
        if self.joint_T is None:
            return None
        return np.asarray(self.signs_T * (self.joint_T - self.values_ST[-1]))

    def cells(self) -> list[list[str]]:
        """A head, and a line for each set: its figures, what was forgotten, the joint run's."""
        head = [f"stage {number}" for number in range(len(self.values_ST))]
        columns, more = [*self.values_ST, self.forgotten_ST[-1]], []
        if self.joint_T is not None and self.gap_T is not None:
            columns, more = [*columns, self.joint_T, self.gap_T], ["joint", "gap"]
        lines = [["set", "figure", *head, "forgotten", *more]]
        for name, kind, numbers in zip(self.sets, self.kinds, np.array(columns).T, strict=True):
            digits = 2 if kind == KNN else 4
            words = [f"{number:.{digits}f}" for number in numbers]
            lines.append([Path(name).name, UNITS[kind], *words])
        return lines

    def lines(self) -> list[str]:
        """The table for a terminal."""
        cells = self.cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return ["  ".join(map(str.rjust, line, widths)) for line in cells]


def write_forgetting(folder: Path, table: Forgetting) -> Path:
    """Write a row for each stage and set; returns the file.

    Columns: stage, set (both from 0), shards, figure, value, forgotten (`forgotten_ST`), joint
    (null without such a run).
    """
    num_stages, num_sets = table.values_ST.shape
    joint = [None] * num_sets if table.joint_T is None else table.joint_T.tolist()
    columns = {
        "stage": pa.array(np.repeat(np.arange(num_stages), num_sets)),
        "set": pa.array(list(range(num_sets)) * num_stages),
        "shards": pa.array(list(table.sets) * num_stages),
        "figure": pa.array(list(table.kinds) * num_stages),
        "value": pa.array(table.values_ST.ravel()),
        "forgotten": pa.array(table.forgotten_ST.ravel()),
        "joint": pa.array(joint * num_stages, pa.float64()),
    }
    path = folder / FORGETTING_FILE
    with atomic_file(path) as file:
        pq.write_table(pa.table(columns), file)
    return path


def read_forgetting(folder: Path) -> Forgetting:
    """Read what `write_forgetting` wrote; InputError where it is missing or damaged."""
    path = folder / FORGETTING_FILE
    try:
        columns = pq.read_table(path).to_pydict()
        num_sets = 1 + max(columns["set"])
        sets, kinds, joint = (columns[name][:num_sets] for name in ("shards", "figure", "joint"))
        values_ST = np.array(columns["value"], np.float64).reshape(-1, num_sets)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): give the command of the stream again"
        ) from error
    joint_T = None if None in joint else np.array(joint, np.float64)
    return Forgetting(tuple(sets), tuple(kinds), values_ST, joint_T)
