"""Results: columns that a reader relies on, the best trial and its ties, intervals and ranks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from tests.made_sweeps import GRID, small_sweep
from training.config.file import read_config_file
from training.evaluate.intervals import bootstrap_interval
from training.sweep import results
from training.sweep.config import Sweep, trial_config
from training.sweep.results import (
    Status,
    Trial,
    accuracy_interval,
    num_left,
    rank_correlation,
    read_table,
    write_results,
)
from training.sweep.space import Point, Space, parse_space

POINT: Point = {"masks.query_ratio": "0.05:0.25", "optim.lr": 0.01}


def trial(number: int, status: Status = "finished", point: Point = POINT, **values: float) -> Trial:
    return Trial(number, point, status=status, epochs=4.0, seconds=10.0, values=values)


def described(out: Path, space: Space = GRID, **given: Any) -> Sweep:  # noqa: ANN401
    """A sweep whose `sweep.json` is there."""
    out.mkdir(exist_ok=True)
    (out / "sweep.json").write_text('{"version": 1}')
    return small_sweep(out, space, **given)


TRIALS = [
    trial(0, knn=40.0, loss=2.0),
    trial(1, "stopped", {"masks.query_ratio": 0.4, "optim.lr": 0.02}, knn=60.0),
    trial(2, knn=50.0, loss=1.5, knn_images=200),
    replace(trial(3, "failed"), message="broken"),
]


def test_the_files_have_what_readers_rely_on(tmp_path: Path) -> None:
    sweep = described(tmp_path)
    assert read_table(tmp_path) == []
    found = write_results(sweep, TRIALS)
    table = pq.read_table(tmp_path / "results.parquet")
    assert table.column_names == [
        "trial", "status", "epochs", "objective", "seconds", "run", "message",
        "metric.knn", "metric.knn_images", "metric.loss", "masks.query_ratio", "optim.lr",
    ]  # fmt: skip
    assert json.loads(table.schema.metadata[b"salmask"]) == {"version": 1}
    types = [table.schema.field(name).type for name in ("trial", "message", "optim.lr")]
    assert types == [pa.int64(), pa.string(), pa.float64()]
    assert table["masks.query_ratio"].to_pylist() == ["0.05:0.25", "0.4", "0.05:0.25", "0.05:0.25"]
    assert table["objective"].to_pylist() == [40.0, 60.0, 50.0, None]
    assert table["metric.loss"].to_pylist() == [2.0, None, 1.5, None]
    assert table["run"].to_pylist()[1] == "trials/0001"
    text = replace(TRIALS[1], point=TRIALS[1].point | {"masks.query_ratio": "0.4"})
    assert read_table(tmp_path) == [TRIALS[0], text, *TRIALS[2:]]

    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(found))
    assert found["counts"] == {"finished": 2, "stopped": 1, "failed": 1, "running": 0}
    best = {"trial": 2, "objective": 50.0, "tied": [2], "values": POINT}
    # 2.5 % and 97.5 % of Binomial(200, 0.5): 86 and 114
    assert found["best"] == {**best, "interval": (43.0, 57.0)}
    assert found["seconds"] == 40.0
    read = read_config_file(tmp_path / "best.json", shards=Path("x"), out=Path("/new"))
    assert read == replace(trial_config(sweep.base, 2, POINT), out=Path("/new"))

    lines = results.terminal_table(sweep, TRIALS).splitlines()
    head = ["trial", "status", "epochs", "knn", "masks.query_ratio", "optim.lr", "seconds"]
    assert lines[0].split() == head
    assert lines[1].split() == ["1", "stopped", "4", "60", "0.4", "0.02", "10"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "0", "3"]
    assert len({len(line) for line in lines}) == 1


def test_swept_epochs_and_mixed_numbers_have_columns_of_their_own(tmp_path: Path) -> None:
    sweep = described(tmp_path, parse_space(grid=["epochs=2,4", "method.rho=1,1.5"]))
    points: list[Point] = [{"epochs": 2, "method.rho": 1}, {"epochs": 4, "method.rho": 1.5}]
    results.write_table(sweep, [trial(n, point=p, knn=1.0) for n, p in enumerate(points)])
    table = pq.read_table(tmp_path / "results.parquet")
    assert table["epochs"].to_pylist() == [4.0, 4.0]
    assert table["space.epochs"].to_pylist() == [2, 4]
    assert table["method.rho"].to_pylist() == [1.0, 1.5]
    assert [one.point for one in read_table(tmp_path)] == points
    pq.write_table(table.drop_columns("status"), tmp_path / "results.parquet")
    with pytest.raises(InputError, match="no column 'status'"):
        read_table(tmp_path)


def test_the_best_are_those_that_finished_with_the_best_objective(tmp_path: Path) -> None:
    trials = [trial(0, heldout_loss=2.0), trial(1, heldout_loss=1.0), trial(2, heldout_loss=1.0)]
    assert results.best_trials(trials, "heldout_loss") == trials[1:]
    best = write_results(described(tmp_path, objective="heldout_loss"), trials)["best"]
    assert (best["trial"], best["tied"], best["interval"]) == (1, [1, 2], None)
    assert write_results(described(tmp_path / "failed"), TRIALS[3:])["best"] is None
    assert not (tmp_path / "failed" / "best.json").exists()


@pytest.mark.parametrize(("right", "total"), [(30, 60), (1, 40), (599, 600), (0, 9), (9, 9)])
def test_an_interval_is_that_of_the_bootstrap_without_its_draws(right: int, total: int) -> None:
    percent = 100 * right / total
    drawn = bootstrap_interval(np.arange(total) < right, seed=0)
    interval = accuracy_interval(trial(0, knn=percent, knn_images=total))
    assert interval is not None
    assert interval[0] <= percent <= interval[1]
    # the quantiles of 10,000 draws are at most one image from those of the distribution
    assert interval == pytest.approx(drawn, abs=100 / total + 1e-9)
    assert accuracy_interval(trial(0, knn=percent)) is None


def test_ranks_are_correlated_as_spearman_says() -> None:
    def correlation(losses: list[float], accuracies: list[float]) -> tuple[float, int] | None:
        pairs = zip(losses, accuracies, strict=True)
        trials = [trial(n, heldout_loss=loss, knn=knn) for n, (loss, knn) in enumerate(pairs)]
        return rank_correlation([*trials, trial(9, "stopped", knn=90.0, heldout_loss=9.0)])

    # d = rank differences 0, 1, 1, 0: 1 - 6 * 2 / (4 * 15) = 0.8
    assert correlation([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx((0.8, 4))
    # equal values share their mean rank: ranks (1.5, 1.5, 3) and (1, 2, 3)
    wanted = np.corrcoef([1.5, 1.5, 3], [1, 2, 3])[0, 1]
    assert correlation([7, 7, 8], [1, 2, 3]) == pytest.approx((wanted, 3))
    assert correlation([1, 2], [1, 2]) is correlation([1, 1, 1], [1, 2, 3]) is None


def test_what_is_left_and_an_objective_that_nobody_reported(tmp_path: Path) -> None:
    sweep = described(tmp_path)  # four trials
    assert num_left(sweep, TRIALS[1:]) == 1
    assert num_left(sweep, TRIALS, retry_failed=True) == 1
    assert num_left(sweep, [*TRIALS[:3], trial(3, "running")]) == 1
    silent = [trial(number, loss=1.0) for number in range(4)]
    write_results(sweep, silent[:3])
    with pytest.raises(InputError, match="no trial reported its knn"):
        write_results(sweep, silent)
