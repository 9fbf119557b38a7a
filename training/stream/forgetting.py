"""The table of a stream: every set's figure after every stage, what was forgotten, and the gap.

Shapes: S stages, T sets.
"""

import dataclasses
from collections.abc import Sequence
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

    def head(self) -> list[str]:
        """The heads of the columns of `rows`."""
        stages = [f"stage {number}" for number in range(len(self.values_ST))]
        return ["set", "figure", *stages, "forgotten", *([] if self.gap_T is None else GAP)]

    def rows(self) -> list[list[str]]:
        """A row for each set: its figure after every stage, what was forgotten, joint and gap."""
        found = []
        for number, (name, kind) in enumerate(zip(self.sets, self.kinds, strict=True)):
            numbers = [*self.values_ST[:, number], self.forgotten_ST[-1, number]]
            if self.joint_T is not None and self.gap_T is not None:
                numbers += [self.joint_T[number], self.gap_T[number]]
            digits = 2 if kind == KNN else 4
            words = [f"{value:.{digits}f}" for value in numbers]
            found.append([Path(name).name, UNITS[kind], *words])
        return found

    def lines(self) -> list[str]:
        """The table for a terminal."""
        cells = [self.head(), *self.rows()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [
            "  ".join(
                cell.ljust(width) if place < 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]


GAP = ("joint", "gap")


def write_forgetting(folder: Path, table: Forgetting) -> Path:
    """Write a row for each stage and set; returns the file.

    Columns: stage, set (both from 0), shards, figure, value, forgotten (`forgotten_ST`), joint
    (null without such a run).
    """
    rows = [
        {
            "stage": stage,
            "set": number,
            "shards": name,
            "figure": table.kinds[number],
            "value": float(table.values_ST[stage, number]),
            "forgotten": float(table.forgotten_ST[stage, number]),
            "joint": None if table.joint_T is None else float(table.joint_T[number]),
        }
        for stage in range(len(table.values_ST))
        for number, name in enumerate(table.sets)
    ]
    kinds = {"joint": pa.float64()}
    columns = {key: pa.array([row[key] for row in rows], kinds.get(key)) for key in rows[0]}
    path = folder / FORGETTING_FILE
    with atomic_file(path) as file:
        pq.write_table(pa.table(columns), file)
    return path


def read_forgetting(folder: Path) -> Forgetting:
    """Read what `write_forgetting` wrote; InputError where it is missing or damaged."""
    path = folder / FORGETTING_FILE
    try:
        rows = pq.read_table(path).to_pylist()
        num_sets = 1 + max(row["set"] for row in rows)
        first: Sequence[dict[str, object]] = rows[:num_sets]
        values = np.array([row["value"] for row in rows], np.float64).reshape(-1, num_sets)
        joint = [row["joint"] for row in first]
        names, kinds = (tuple(str(row[key]) for row in first) for key in ("shards", "figure"))
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): give the command of the stream again"
        ) from error
    table = Forgetting(names, kinds, values)
    has_joint = None not in joint
    return dataclasses.replace(table, joint_T=np.array(joint, np.float64)) if has_joint else table
