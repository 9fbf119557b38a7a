"""Sweeps on a real Ray: how trials end, what restoring keeps, and that nothing stays held."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from ray import tune as ray_tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from pipeline.core.progress import Standing, listening
from tests.listeners import Kept
from tests.made_sweeps import small_sweep, write_sets
from tests.pretrain_jobs import is_trial, is_worker
from tests.screens import check_bars, seen_in_terminal, whole_lines
from training.config.pretrain import PretrainConfig
from training.config.resources import Resources
from training.ray.workers import PLACEMENT_GROUP_FILE
from training.record.metrics import read_metrics
from training.record.mirror import STOP_FILE
from training.sweep import tune
from training.sweep.config import Sweep
from training.sweep.preflight import describe, locked
from training.sweep.results import Trial, read_table
from training.sweep.space import parse_space

EACH = Resources(1, 1, use_gpu=False)
RUNNING, OVER = (SimpleNamespace(is_finished=lambda over=over: over) for over in (False, True))


class StopsTheSecond(FIFOScheduler):
    """Stops trial 1 at its first report."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ANN401
        second = trial.config["trial"] == 1
        return str(TrialScheduler.STOP if second else TrialScheduler.CONTINUE)


def held() -> list[str]:
    """Placement groups that are not gone, and processes that train or wait."""
    import ray

    groups = ray.util.placement_group_table().values()
    children = psutil.Process().children(recursive=True)
    processes = [process for process in children if is_worker(process) or is_trial(process)]
    return [g["placement_group_id"] for g in groups if g["state"] != "REMOVED"] + [
        str(process.pid) for process in processes
    ]


@pytest.mark.timeout(900)
def test_trials_finish_and_stop_and_hold_nothing_afterwards(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test of a killed sweep leaves the actor of a trial: its driver, this process, lives on.
    before = set(held())
    write_sets(tmp_path)
    changes = {"shards": str(tmp_path / "train"), "knn.val_shards": str(tmp_path / "val")}
    # Small: each epoch writes it.
    changes |= {"encoder.architecture": "mobilenet_v3_small", "encoder.stem": "standard"}
    sweep = small_sweep(tmp_path / "sweep", parse_space(grid=["epochs=2,60"]), changes=changes)
    monkeypatch.setattr(tune, "scheduler_of", lambda _: StopsTheSecond())  # type: ignore[no-untyped-call]
    kept = Kept()
    with listening(kept), locked(sweep.folder, describe(sweep, "d")):
        finished, stopped = tune.run_trials(sweep, 2, EACH)
    assert (finished.status, stopped.status) == ("finished", "stopped"), kept.lines
    assert (kept.standings[-1].done, kept.standings[-1].total) == (62, 62)
    assert finished.epochs == 2
    assert 1 <= stopped.epochs < 60
    runs = [sweep.folder / "trials" / name for name in ("0000", "0001")]
    checkpoints = [int(p.name.removeprefix("step-")) for p in (runs[1] / "checkpoints").iterdir()]
    assert max(checkpoints) >= stopped.epochs * 3  # it was asked to end, and wrote a checkpoint
    assert json.loads((runs[0] / "config.json").read_text())["epochs"] == 2
    evaluated = [entry["step"] for entry in read_metrics(runs[0]) if entry["kind"] == "eval"]
    assert evaluated == [0, 3, 6]
    deadline = time.monotonic() + 60
    while set(held()) - before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert set(held()) <= before


def counting(base: PretrainConfig, _workers: object) -> type[ray_tune.Trainable]:
    """Trials that count to four, go on from their folder, and train nothing."""
    folder = base.out

    class Pretraining(ray_tune.Trainable):
        @classmethod
        def default_resource_request(cls, config: dict[str, Any]) -> Any:  # noqa: ANN401
            return ray_tune.PlacementGroupFactory([{"memory": 1 << 20}])

        def setup(self, config: dict[str, Any]) -> None:
            self._file = folder / f"count-{config['trial']}"
            self._lr, self._rests = config["optim.lr"], 2.0 * (config["trial"] == 1)
            with (folder / "starts").open("a") as file:
                file.write(f"{config['trial']} {self._lr}\n")

        def step(self) -> dict[str, Any]:
            time.sleep(self._rests)  # longer than Tune's state of the report before is outdated
            count = min(4, 1 + int(self._file.read_text() if self._file.exists() else 0))
            self._file.write_text(str(count))
            values = {"knn": count * self._lr}
            end = {"finished": count == 4, "done": count == 4}
            return {**values, "values": values, "epochs": count, "seconds": 1.0, **end}

    return Pretraining


def test_a_sweep_in_a_terminal_has_a_bar(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "trainable", counting)
    write_sets(tmp_path)
    places = {"shards": "train", "knn.val-shards": "val", "out": "sweep"}
    words = [word for name, at in places.items() for word in (f"--{name}", str(tmp_path / at))]
    words += ["--recipe", "debug", "--epochs", "4", "--grid", "optim.lr=0.1"]
    code, screen = seen_in_terminal("sweep", [*words, "--scheduler", "none"], monkeypatch)
    assert code == 0, screen
    check_bars(screen, "sweep")
    begun = [line.split()[0] for line in whole_lines(screen) if line]
    assert (begun[0], begun[-1]) == ("sweeping", "results"), screen


class Killed(BaseException):
    """Stands for a SIGKILL: no part of Tune catches it, saves or cleans up after it."""


@pytest.mark.timeout(900)
def test_a_killed_sweep_keeps_what_has_ended_and_more_trials_can_be_added(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "trainable", counting)
    space = parse_space(uniform=["optim.lr=0.1..0.2"])

    def run(num_trials: int) -> tuple[Sweep, list[Trial], list[str]]:
        sweep = small_sweep(tmp_path, space, num_trials=num_trials, scheduler="none")
        with listening(kept := Kept()), locked(tmp_path, describe(sweep, "d")):
            return sweep, tune.run_trials(sweep, 1, EACH), kept.lines

    def killed(line: str) -> None:
        if line.startswith("trial 1 epoch 2"):
            raise Killed

    def starts() -> list[int]:
        return [int(line.split()[0]) for line in (tmp_path / "starts").read_text().splitlines()]

    with monkeypatch.context() as patch:
        patch.setattr(tune, "say", killed)
        with pytest.raises(Killed):
            run(2)
    for _ in range(100):  # what stands for a kill does not end the thread that copies Tune's state
        if trials := tune.read_trials(tmp_path):
            break
        time.sleep(0.1)
    assert [t.status for t in trials] == ["finished", "running"]
    sweep, trials, lines = run(3)
    assert [(t.status, t.epochs) for t in trials] == [("finished", 4)] * 3
    assert [t.point for t in trials] == sweep.points()
    assert starts() == [0, 1, 1, 2]  # one at a time; what has ended does not start again
    assert lines[0].startswith("trial 1 resumes after ")
    assert trials[1].seconds == 2.0

    for state in (tmp_path / "tune").glob("experiment_state-*.json"):
        state.write_text(state.read_text()[:-100])  # a kill in the middle of a copy
    assert tune.read_trials(tmp_path) == []
    _, trials, _ = run(3)  # every trial looks into its folder once, and is over
    assert starts() == [0, 1, 1, 2, 0, 1, 2]
    assert [(t.status, t.point) for t in trials] == [("finished", p) for p in sweep.points()]


def test_no_more_trials_start_than_fit_or_than_there_are(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path)  # a grid of four
    points = tune._Points(sweep, concurrent=2)
    points.trials = [RUNNING, OVER, RUNNING]  # type: ignore[list-item]
    assert points.suggest("id") is None
    points.trials = [RUNNING, OVER, OVER]  # type: ignore[list-item]
    assert not points.all_started()
    assert points.suggest("id") == {"trial": 3, **sweep.points()[3]}
    (tmp_path / STOP_FILE).touch()
    assert points.all_started()
    (tmp_path / STOP_FILE).unlink()
    points.trials = [OVER] * 4  # type: ignore[list-item]
    assert points.all_started()


@pytest.mark.parametrize(
    ("scheduler", "objective", "decision"),
    [("asha", "knn", "STOP"), ("asha", "heldout_loss", "CONTINUE"), ("none", "knn", "CONTINUE")],
)
def test_asha_stops_what_falls_behind(
    tmp_path: Path, scheduler: str, objective: str, decision: str
) -> None:
    found = tune.scheduler_of(small_sweep(tmp_path, scheduler=scheduler, objective=objective))
    saved: list[Any] = []
    controller: Any = SimpleNamespace(_mark_trial_to_checkpoint=saved.append)
    for name, value in (("first", 5.0), ("second", 1.0)):
        trial: Any = SimpleNamespace(trial_id=name)
        found.on_trial_add(controller, trial)
        said = found.on_trial_result(controller, trial, {"epochs": 1.0, objective: value})
    assert said == decision
    found.on_trial_error(controller, trial)
    assert saved == [trial]  # Tune leaves out trials whose process died


def test_optuna_goes_where_it_was_good_and_on_after_a_restore(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    space = parse_space(
        uniform=["masks.foreground_threshold=-1..1"],
        choice=["fill=mean,blur"],
        log_uniform=["method.queue_size=16..1024"],
    )
    sweep = small_sweep(tmp_path, space, search="optuna", num_trials=24)
    other = small_sweep(tmp_path, space, search="optuna", search_seed=1)
    points, others, restored = (tune._Points(one, concurrent=1) for one in (sweep, other, sweep))
    assert others.suggest("id-0") != restored.suggest("id-0")
    found = []
    for number in range(24):
        points.trials = [OVER] * number  # type: ignore[list-item]
        point = points.suggest(f"id-{number}")
        assert point is not None
        assert point.keys() == {"trial", *space}
        assert (point["trial"], type(point["method.queue_size"])) == (number, int)
        assert point["fill"] in ("mean", "blur")
        found.append(point["masks.foreground_threshold"])
        assert -1 <= found[-1] <= 1
        points.on_trial_complete(f"id-{number}", {"knn": -((found[-1] - 0.5) ** 2)})
    distance = np.abs(np.array(found) - 0.5)
    assert distance[-8:].mean() < distance[:8].mean()
    points.save(str(tmp_path / "state"))
    restored.restore(str(tmp_path / "state"))
    restored.trials = points.trials = [OVER] * 24  # type: ignore[list-item]
    assert restored.suggest("next") == points.suggest("next")
    restored.on_trial_complete("one that started after the state was saved", {"knn": 1.0})


def test_how_far_a_sweep_is(ray_session: None, tmp_path: Path) -> None:
    from ray.util import placement_group, placement_group_table

    sweep = small_sweep(tmp_path)  # four trials of four epochs

    def trial(number: int, status: str, **last: object) -> Any:  # noqa: ANN401
        config = {"trial": number, **sweep.points()[number]}
        metadata = SimpleNamespace(last_result=last)
        return SimpleNamespace(
            config=config, status=status, run_metadata=metadata, trial_id=f"id-{number}"
        )

    before = trial(0, "RUNNING", epochs=1.0, seconds=9.0)
    points = tune._Points(sweep, concurrent=2)
    progress = tune._Progress(sweep, points, [Trial(0, {}, epochs=1.0, seconds=9.0)])
    progress.on_step_begin(trials=[before])
    assert points.trials == [before]
    workers = placement_group([{"memory": 1}])  # of the trial whose process dies
    noted = tmp_path / "trials" / "0002" / PLACEMENT_GROUP_FILE
    noted.parent.mkdir(parents=True)
    noted.write_text(workers.id.hex())
    kept = Kept()
    result = {"epochs": 2.0, "seconds": 3.0, "done": False, "values": {"knn": 31.25}}
    with listening(kept), locked(tmp_path, describe(sweep, "d")):
        progress.on_trial_result(trial=before, trials=[before], result=result)
        before.run_metadata.last_result = result
        progress.on_step_end(trials=[before])
        progress.on_step_end(trials=[before])  # nothing has changed
        ended = trial(1, "TERMINATED", epochs=1.0, seconds=4.0, finished=False, done=True)
        progress.on_trial_complete(trial=ended, trials=[before, ended])
        progress.on_step_end(trials=[before, ended])
        died = trial(2, "ERROR")
        progress.on_trial_error(trial=died, trials=[before, ended, died])
        progress.on_step_end(trials=[before, ended, died])
    assert placement_group_table(workers)["state"] == "REMOVED"
    assert result["seconds"] == 12.0  # its earlier start's, too
    written = [trial.status for trial in read_table(tmp_path)]  # before the sweep has ended
    assert written == ["running", "stopped", "failed"]
    assert kept.lines == [
        "trial 0 epoch 2, knn 31.25",
        "trial 1 stopped after 1 epochs, 4 s: 1 done, 3 left",
        "trial 2 failed after 0 epochs, 0 s (its process died): 2 done, 2 left",
    ]
    # one epoch was there before; trial 1 was trained for one epoch of four and is over
    shown = [(s.done, s.done - s.given) for s in kept.standings]
    assert shown == [(2, 1), (2 + 4, 2), (2 + 4 + 4, 2)]
    assert kept.standings[-1] == Standing(
        work="sweep", done=10, total=16, unit="epochs", given=8,
        note="2 of 4 trials ended, 1 running",
    )  # fmt: skip
