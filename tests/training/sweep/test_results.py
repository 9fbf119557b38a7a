"""Results: columns that a reader relies on, the best trial and its ties, intervals and ranks."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from tests.training.sweep.small_sweeps import small_sweep
from training.config.file import read_config_file
from training.evaluate.intervals import bootstrap_interval
from training.sweep.results import (
    BEST_FILE,
    RESULTS_FILE,
    SUMMARY_FILE,
    Status,
    Trial,
    accuracy_interval,
    best_trials,
    num_left,
    rank_correlation,
    results_table,
    summary,
    terminal_table,
    write_results,
)
from training.sweep.space import Point, parse_space

POINT: Point = {"masks.query_ratio": "0.05:0.25", "optim.lr": 0.01}
DESCRIPTION = {"version": 1, "val_images": 200}


def trial(number: int, status: Status = "finished", point: Point = POINT, **values: float) -> Trial:
    return Trial(number, point, status=status, epochs=4.0, seconds=10.0, values=values)


TRIALS = [
    trial(0, knn=40.0, loss=2.0),
    trial(1, "stopped", {"masks.query_ratio": 0.4, "optim.lr": 0.02}, knn=60.0),
    trial(2, knn=50.0, loss=1.5),
    trial(3, "failed"),
]


def test_the_files_have_what_readers_rely_on(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path)
    found = write_results(sweep, TRIALS, DESCRIPTION)
    table = pq.read_table(tmp_path / RESULTS_FILE)
    assert table.column_names == [
        "trial", "status", "epochs", "objective", "seconds", "run", "message",
        "metric.knn", "metric.loss", "masks.query_ratio", "optim.lr",
    ]  # fmt: skip
    assert json.loads(table.schema.metadata[b"salmask"]) == DESCRIPTION
    assert table.schema.field("trial").type == pa.int64()
    assert table.schema.field("optim.lr").type == pa.float64()
    assert table["masks.query_ratio"].to_pylist() == ["0.05:0.25", "0.4", "0.05:0.25", "0.05:0.25"]
    assert table["objective"].to_pylist() == [40.0, 60.0, 50.0, None]
    assert table["metric.loss"].to_pylist() == [2.0, None, 1.5, None]
    assert table["run"].to_pylist()[1] == "trials/0001"

    assert json.loads((tmp_path / SUMMARY_FILE).read_text()) == json.loads(json.dumps(found))
    assert found["counts"] == {"finished": 2, "stopped": 1, "failed": 1, "running": 0}
    low, high = found["best"].pop("interval")
    assert (low, high) == (43.0, 57.0)  # 2.5 % and 97.5 % of Binomial(200, 0.5): 86 and 114
    assert found["best"] == {"trial": 2, "objective": 50.0, "tied": [2], "values": POINT}
    assert found["seconds"] == 40.0

    read = read_config_file(tmp_path / BEST_FILE, shards=Path("x"), out=Path("/new"))
    config = sweep.trial_config(2, POINT)
    assert read == type(config)(**{**vars(config), "out": Path("/new")})


def test_swept_epochs_and_mixed_numbers_have_columns_of_their_own(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path, parse_space(grid=["epochs=2,4", "method.rho=1,1.5"]))
    points: list[Point] = [{"epochs": 2, "method.rho": 1}, {"epochs": 4, "method.rho": 1.5}]
    table = results_table(sweep, [trial(n, point=p, knn=1.0) for n, p in enumerate(points)], {})
    assert table["epochs"].to_pylist() == [4.0, 4.0]
    assert table["space.epochs"].to_pylist() == [2, 4]
    assert table.schema.field("space.epochs").type == pa.int64()
    assert table["method.rho"].to_pylist() == [1.0, 1.5]


def test_the_best_are_those_that_finished_with_the_best_objective(tmp_path: Path) -> None:
    assert best_trials(small_sweep(tmp_path), TRIALS) == [TRIALS[2]]
    heldout = small_sweep(tmp_path, objective="heldout_loss", changes={"heldout.shards": "/held"})
    trials = [trial(0, heldout_loss=2.0), trial(1, heldout_loss=1.0), trial(2, heldout_loss=1.0)]
    assert best_trials(heldout, trials) == trials[1:]
    best = summary(heldout, trials, val_images=200)["best"]
    assert (best["trial"], best["tied"], best["interval"]) == (1, [1, 2], None)
    assert best_trials(small_sweep(tmp_path), TRIALS[3:]) == []
    assert summary(small_sweep(tmp_path), TRIALS[3:])["best"] is None


@pytest.mark.parametrize(("right", "total"), [(30, 60), (1, 40), (599, 600), (0, 9), (9, 9)])
def test_an_interval_is_that_of_the_bootstrap_without_its_draws(right: int, total: int) -> None:
    percent = 100 * right / total
    drawn = bootstrap_interval(np.arange(total) < right, seed=0)
    low, high = accuracy_interval(percent, total)
    assert low <= percent <= high
    # the quantiles of 10,000 draws are at most one image from those of the distribution
    assert (low, high) == pytest.approx(drawn, abs=100 / total + 1e-9)


def test_ranks_are_correlated_as_spearman_says() -> None:
    # d = rank differences 0, 1, 1, 0: 1 - 6 * 2 / (4 * 15) = 0.8
    assert rank_correlation([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)
    # equal values share their mean rank: ranks (1.5, 1.5, 3) and (1, 2, 3)
    wanted = np.corrcoef([1.5, 1.5, 3], [1, 2, 3])[0, 1]
    assert rank_correlation([7, 7, 8], [1, 2, 3]) == pytest.approx(wanted)
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_loss_and_accuracy_are_correlated_over_what_finished(tmp_path: Path) -> None:
    trials = [
        trial(0, knn=10.0, heldout_loss=3.0),
        trial(1, knn=20.0, heldout_loss=2.0),
        trial(2, knn=30.0, heldout_loss=1.0),
        trial(3, "stopped", knn=90.0, heldout_loss=9.0),
    ]
    found = summary(small_sweep(tmp_path), trials)["rank_correlation"]
    assert found == {"heldout_loss with knn": pytest.approx(-1)}


def test_what_is_left_and_an_objective_that_nobody_reported(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path)  # four trials
    assert num_left(sweep, TRIALS[1:]) == 1
    assert num_left(sweep, TRIALS, retry_failed=True) == 1
    assert num_left(sweep, [*TRIALS[:3], trial(3, "running")]) == 1
    silent = [trial(number, loss=1.0) for number in range(4)]
    write_results(sweep, silent[:3], DESCRIPTION)
    with pytest.raises(InputError, match="no trial reported its knn"):
        write_results(sweep, silent, DESCRIPTION)


def test_the_terminal_shows_the_best_first(tmp_path: Path) -> None:
    lines = terminal_table(small_sweep(tmp_path), TRIALS).splitlines()
    assert lines[0].split() == [
        "trial", "status", "epochs", "knn", "masks.query_ratio", "optim.lr", "seconds",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "0", "3"]
    assert len({len(line) for line in lines}) == 1
