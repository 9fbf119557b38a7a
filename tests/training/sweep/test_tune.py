"""A sweep on a real Ray: trials end as they should, and leave nothing that holds its cores."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from pipeline.core.progress import listening
from tests.listeners import Kept
from tests.pretrain_jobs import is_worker
from tests.shard_sets import write_shard_set
from tests.training.sweep.small_sweeps import small_sweep
from training.config.pretrain import CONFIG_FILE
from training.config.resources import Resources
from training.ray.launch import STOP_FILE
from training.record.metrics import read_metrics
from training.sweep import tune
from training.sweep.director import Director
from training.sweep.fits import Share
from training.sweep.ledger import Ledger
from training.sweep.space import parse_space
from training.sweep.tune import AshaJudge, judge_of, run_trials


def halving(
    reports: list[tuple[int, int, float]], *, grace: int, factor: int, max_epochs: int
) -> list[bool]:
    """ASHA by hand: at a rung one goes on who is among the best of those that reached it."""
    rungs = [grace * factor**k for k in range(20) if grace * factor**k <= max_epochs]
    reached: dict[int, dict[int, float]] = {rung: {} for rung in rungs}
    stops = []
    for number, epochs, value in reports:
        stop = epochs >= max_epochs
        if not stop:
            new = [r for r in rungs if r <= epochs and number not in reached[r]]
            if new:
                others = list(reached[new[-1]].values())
                cutoff = np.percentile(others, 100 * (1 - 1 / factor)) if others else -np.inf
                stop = bool(value < cutoff)
                reached[new[-1]][number] = value
        stops.append(stop)
    return stops


@pytest.mark.parametrize("mode", ["max", "min"])
def test_asha_is_successive_halving_and_says_the_same_when_told_again(
    tmp_path: Path, mode: str
) -> None:
    rng = np.random.default_rng(0)
    reports = [(int(n), e, float(rng.normal())) for e in range(1, 9) for n in rng.permutation(9)]
    given = {"objective": "heldout_loss", "changes": {"heldout.shards": "/h", "epochs": 8}}
    sweep = small_sweep(tmp_path, **(given if mode == "min" else {"changes": {"epochs": 8}}))
    sign = 1 if mode == "max" else -1
    wanted = halving(
        [(n, e, sign * value) for n, e, value in reports], grace=1, factor=2, max_epochs=8
    )
    for _ in range(2):
        judge = AshaJudge(sweep, 8)
        assert [judge.falls_behind(n, e, value) for n, e, value in reports] == wanted
    assert 0 < sum(wanted) < len(wanted)


def test_without_a_scheduler_there_is_no_judge(tmp_path: Path) -> None:
    assert judge_of(small_sweep(tmp_path, scheduler="none")) is None
    assert judge_of(small_sweep(tmp_path)) is not None


def test_a_trial_that_has_not_begun_is_asked_to_stop_when_it_reports(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path, scheduler="none")
    director = Director(sweep, Ledger(tmp_path), judge=None, description={})
    started = director.next()
    assert started is not None
    tune._close(director)  # its folder is not there yet
    assert director.next() is None
    out = sweep.trial_config(*started).out
    assert not out.exists()
    out.mkdir(parents=True)
    (out / CONFIG_FILE).touch()
    said = {"epochs": 1.0, "seconds": 1.0, "values": {"knn": 5.0}}
    trial = SimpleNamespace(config={"number": started[0]})
    tune._Reports(director).on_trial_result(None, trial, {"said": json.dumps(said)})
    assert (out / STOP_FILE).exists()


class StopsTheSecond:
    """Finds trial 1 behind."""

    def falls_behind(self, number: int, epochs: float, objective: float) -> bool:
        return number == 1


def held() -> list[str]:
    """Placement groups that are not gone, and processes that train."""
    import ray

    groups = ray.util.placement_group_table().values()
    workers = [p for p in psutil.Process().children(recursive=True) if is_worker(p)]
    return [g["placement_group_id"] for g in groups if g["state"] != "REMOVED"] + [
        str(worker.pid) for worker in workers
    ]


@pytest.mark.timeout(600)
def test_trials_finish_and_stop_and_hold_nothing_afterwards(
    ray_session: None, tmp_path: Path
) -> None:
    write_shard_set(tmp_path / "train", num_images=48)
    write_shard_set(tmp_path / "val", num_images=12, first_number=1000)
    places = {"shards": str(tmp_path / "train"), "knn.val_shards": str(tmp_path / "val")}
    sweep = small_sweep(tmp_path / "sweep", parse_space(grid=["epochs=2,60"]), changes=places)
    sweep.folder.mkdir()
    director = Director(sweep, Ledger(sweep.folder), judge=StopsTheSecond(), description={})
    kept = Kept()
    with listening(kept):
        run_trials(sweep, director, Share(2, Resources(1, 1, use_gpu=False)))
    assert [trial.status for trial in director.trials] == ["finished", "stopped"], kept.lines
    assert (kept.standings[-1].done, kept.standings[-1].total) == (62, 62)
    finished, stopped = director.trials
    assert finished.epochs == 2
    assert 1 <= stopped.epochs < 60
    assert director.num_left == 0
    run = sweep.folder / stopped.run
    checkpoints = [int(p.name.removeprefix("step-")) for p in (run / "checkpoints").iterdir()]
    assert max(checkpoints) == stopped.epochs * 3  # it was asked to end, and wrote a checkpoint
    recorded = json.loads((sweep.folder / finished.run / "config.json").read_text())
    assert recorded["epochs"] == 2
    record = read_metrics(sweep.folder / finished.run)
    assert [entry["step"] for entry in record if entry["kind"] == "eval"] == [0, 3, 6]
    deadline = time.monotonic() + 20
    while held() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert held() == []
