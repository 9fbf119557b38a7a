"""The table of a stream: what was forgotten and the gap by hand, and its file."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from training.stream.forgetting import (
    FORGETTING_FILE,
    Forgetting,
    read_forgetting,
    write_forgetting,
)

VALUES = np.array([[50.0, 10.0, 3.0], [40.0, 60.0, 2.0], [45.0, 55.0, 2.5]])
JOINT = np.array([49.0, 50.0, 2.25])


def table(*, joint: bool = True) -> Forgetting:
    kinds = ("knn", "knn", "heldout_loss")
    return Forgetting(("/s/a", "/s/b", "s3://s/c"), kinds, VALUES, JOINT if joint else None)


def test_forgetting_is_the_best_figure_so_far_minus_the_last_one() -> None:
    # Of a loss the least is best.
    expected = np.array([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0], [5.0, 5.0, 0.5]])
    np.testing.assert_allclose(table().forgotten_ST, expected)
    gap = table().gap_T
    assert gap is not None
    np.testing.assert_allclose(gap, [4, -5, 0.25])  # above 0: all sets at once is better
    assert table(joint=False).gap_T is None


def test_the_table_says_it_in_words() -> None:
    lines = [line.split() for line in table().lines()]
    head = "set figure stage 0 stage 1 stage 2 forgotten joint gap"
    assert " ".join(lines[0]) == head
    assert " ".join(lines[1]) == "a kNN, % 50.00 40.00 45.00 5.00 49.00 4.00"
    assert " ".join(lines[3]) == "c loss, nats 3.0000 2.0000 2.5000 0.5000 2.2500 0.2500"
    assert len({len(line) for line in table().lines()}) == 1
    assert table(joint=False).cells()[0][-1] == "forgotten"


@pytest.mark.parametrize("joint", [True, False])
def test_the_file_has_a_row_for_each_stage_and_set_and_is_read_again(
    tmp_path: Path, joint: bool
) -> None:
    path = write_forgetting(tmp_path, table(joint=joint))
    rows = pq.read_table(path).to_pylist()
    assert [(row["stage"], row["set"]) for row in rows] == [
        (s, t) for s in range(3) for t in range(3)
    ]
    assert rows[6] == {
        "stage": 2,
        "set": 0,
        "shards": "/s/a",
        "figure": "knn",
        "value": 45.0,
        "forgotten": 5.0,
        "joint": 49.0 if joint else None,
    }
    found = read_forgetting(tmp_path)
    assert (found.sets, found.kinds) == (table().sets, table().kinds)
    np.testing.assert_array_equal(found.values_ST, VALUES)
    assert (found.joint_T is None) == (not joint)


def test_a_table_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"forgetting\.parquet cannot be read .*command of the"
        ):
            read_forgetting(tmp_path)
        (tmp_path / FORGETTING_FILE).write_bytes(b"PAR1")
