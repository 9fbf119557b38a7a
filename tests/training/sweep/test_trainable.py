"""A trial reports what its run's record says, in order and to its end, and asks its run to stop."""

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from tests.shard_sets import write_shard_set
from training.config.fields import with_fields
from training.config.file import CONFIG_FILE
from training.config.pretrain import PretrainConfig
from training.config.recipes import debug
from training.core.threads import threads_set_by_user
from training.engine.result import RunResult
from training.record.metrics import METRICS_FILE
from training.record.mirror import STOP_FILE
from training.sweep import trainable as module
from training.sweep.trainable import evaluations, trainable

STEPS = 3
"""Of an epoch of 48 images in batches of 16."""
Start = Callable[..., Any]


def write(out: Path, *entries: dict[str, object]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / METRICS_FILE).open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def evaluation(step: int, **values: float) -> dict[str, object]:
    return {"step": step, "kind": "eval", **values}


def test_evaluations_come_with_the_latest_of_every_figure(tmp_path: Path) -> None:
    write(
        tmp_path,
        evaluation(0, knn=10.0, of_the_untrained=1.0),
        {"step": 2, "kind": "train", "loss": 3.0, "lr": 0.1, "samples_seen": "ff"},
        evaluation(2, knn=20.0, heldout_loss=1.5),
        {"step": 2, "kind": "warning", "message": "collapse"},
        {"step": 4, "kind": "train", "loss": 2.0},
        evaluation(4, knn=30.0),
    )
    second = {4: {"loss": 2.0, "knn": 30.0, "heldout_loss": 1.5}}
    first = {2: {"loss": 3.0, "knn": 20.0, "heldout_loss": 1.5}}
    assert evaluations(tmp_path) == first | second
    assert evaluations(tmp_path, 2) == second
    assert evaluations(tmp_path / "none") == {}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretrainConfig:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    write_shard_set(tmp_path / "train", num_images=48)
    (tmp_path / "out").mkdir()
    config = debug(tmp_path / "train", tmp_path / "out")
    return with_fields(config, {"epochs": 4, "batch_size": 16})


@pytest.fixture
def start(base: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts trial 7, in `trials/0007`, with a function in place of its pretraining."""

    def started(run: Callable[[Path], RunResult], **values: object) -> Any:  # noqa: ANN401
        def launch(config: PretrainConfig, _workers: object, *, threads: int | None) -> RunResult:
            assert threads == threads_set_by_user()
            config.out.mkdir(parents=True, exist_ok=True)
            (config.out / CONFIG_FILE).touch()
            return run(config.out)

        monkeypatch.setattr(module, "launch", launch)
        kind = trainable(base)
        trial = kind.__new__(kind)  # what Tune does around it needs a Ray
        trial._trial_info = None
        trial.setup({"trial": 7, **values})
        return trial

    return started


def ended(step: int) -> RunResult:
    return RunResult(step, 4 * STEPS, {})


def test_every_evaluation_is_reported_and_the_last_one_with_the_end(start: Start) -> None:
    may_end = threading.Event()

    def run(out: Path) -> RunResult:
        write(out, *(evaluation(STEPS * n, knn=float(n), heldout_loss=-n) for n in (1, 2)))
        write(out, evaluation(STEPS * 3, knn=3.0), evaluation(STEPS * 4, knn=4.0))
        may_end.wait()
        return ended(4 * STEPS)

    trial = start(run)
    reports = [trial.step() for _ in range(3)]
    found = [(r["epochs"], r["knn"], r["finished"]) for r in reports]
    assert found == [(1, 1, False), (2, 2, False), (3, 3, False)]
    assert "done" not in reports[-1]
    assert reports[-1]["values"] == {"knn": 3.0, "heldout_loss": -2.0}  # the last of each
    may_end.set()  # the fourth is known, but a scheduler must not stop a trial at its end
    last = trial.step()
    assert (last["epochs"], last["knn"], last["finished"], last["done"]) == (4, 4, True, True)


def test_a_trial_that_resumes_reports_its_latest_evaluation_again(
    start: Start, base: PretrainConfig
) -> None:
    out = base.out / "trials" / "0007"
    write(out, evaluation(3, knn=1.0, heldout_loss=9.0), evaluation(6, knn=2.0))
    go = threading.Event()

    def run(out: Path) -> RunResult:
        go.wait(5)  # without the first report, the next one comes
        write(out, evaluation(9, knn=3.0))
        return ended(4 * STEPS)

    trial = start(run)
    first = trial.step()
    assert (first["epochs"], first["values"]) == (2, {"knn": 2.0, "heldout_loss": 9.0})
    go.set()
    assert trial.step()["epochs"] == 3
    assert trial.step()["done"]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({}, InputError("the loss is no\nlonger finite"), "the loss is no longer finite"),
        ({}, RuntimeError("broken"), "RuntimeError: broken"),
        ({"optim.lr": "steep"}, None, "optim.lr=steep: 'steep' is refused, wanted a valid number"),
        ({}, None, "the run was asked to stop after 2 of 12 steps"),
    ],
)
def test_a_failure_is_reported_in_one_line_and_then_raised(
    start: Start, values: dict[str, object], error: Exception | None, message: str
) -> None:
    def run(out: Path) -> RunResult:
        if error is not None:
            write(out, evaluation(STEPS, knn=5.0))
            raise error
        return ended(2)  # somebody touched the run's own stop file

    trial = start(run, **values)
    report = trial.step()
    if error is not None:
        assert (report["knn"], "message" in report) == (5.0, False)
        report = trial.step()
    assert (report["message"], report["finished"]) == (message, False)
    with pytest.raises(InputError, match=re.escape(message)):
        trial.step()


@pytest.mark.parametrize("how", ["cleanup", "sweep"])
def test_a_run_is_asked_to_stop_and_waited_for(
    start: Start, base: PretrainConfig, how: str
) -> None:
    heard = threading.Event()

    def run(out: Path) -> RunResult:
        deadline = time.monotonic() + 20
        while not (out / STOP_FILE).exists() and time.monotonic() < deadline:
            heard.wait(0.005)
        assert (out / STOP_FILE).exists()
        heard.set()
        return ended(2)

    trial = start(run)
    if how == "cleanup":
        trial.cleanup()
    else:
        (base.out / STOP_FILE).touch()
        report = trial.step()
        assert (report["interrupted"], report["done"], report["epochs"]) == (True, False, 2 / 3)
    assert heard.is_set()
    assert trial._run.done()


def test_a_trial_has_the_threads_that_the_user_set_and_not_those_that_ray_set(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    trial = start(lambda _: ended(4 * STEPS))
    assert trial.threads == 3
    assert trial.step()["finished"]
    monkeypatch.setattr(module, "started_by_ray", lambda: True)
    assert vars(trainable(trial.base))["threads"] is None
