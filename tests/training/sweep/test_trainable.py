"""A trial reports what its run's record says, in order and to its end, and asks its run to stop."""

import json
import threading
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
from training.engine.result import RunResult
from training.ray.context import STOP_FILE
from training.record.metrics import METRICS_FILE
from training.sweep import trainable as module
from training.sweep.trainable import evaluations, trainable

STEPS = 3
"""Of an epoch of 48 images in batches of 16."""


def write(out: Path, *entries: dict[str, object]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / METRICS_FILE).open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def evaluation(step: int, **values: float) -> dict[str, object]:
    return {"step": step, "kind": "eval", **values}


def test_evaluations_come_with_the_loss_before_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        evaluation(0, knn=10.0),
        {"step": 2, "kind": "train", "loss": 3.0, "lr": 0.1, "samples_seen": "ff"},
        evaluation(2, knn=20.0, heldout_loss=1.5),
        {"step": 2, "kind": "warning", "message": "collapse"},
        {"step": 4, "kind": "train", "loss": 2.0},
        evaluation(4, knn=30.0),
    )
    second = {4: {"loss": 2.0, "knn": 30.0}}
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
def start(base: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Path]]:
    """Starts trial 7 with `run` in place of its pretraining; returns it and its folder."""

    def started(run: Callable[[Path], RunResult], **values: object) -> tuple[Any, Path]:
        def launch(config: PretrainConfig, _workers: object) -> RunResult:
            config.out.mkdir(parents=True, exist_ok=True)
            (config.out / CONFIG_FILE).touch()
            return run(config.out)

        monkeypatch.setattr(module, "launch", launch)
        kind = trainable(base)
        trial = kind.__new__(kind)  # what Tune does around it needs a Ray
        trial._trial_info = None
        trial.setup({"trial": 7, **values})
        return trial, base.out / "trials" / "0007"

    return started


def ended(step: int) -> RunResult:
    return RunResult(step, 4 * STEPS, {})


def test_every_evaluation_is_reported_and_the_last_one_with_the_end(start: Any) -> None:  # noqa: ANN401
    may_end = threading.Event()

    def run(out: Path) -> RunResult:
        write(out, *(evaluation(STEPS * n, knn=float(n), heldout_loss=-n) for n in (1, 2)))
        write(out, evaluation(STEPS * 3, knn=3.0), evaluation(STEPS * 4, knn=4.0))
        may_end.wait()
        return ended(4 * STEPS)

    trial, _ = start(run)
    reports = [trial.step() for _ in range(3)]
    assert [(r["epochs"], r["knn"], r["finished"]) for r in reports] == [
        (1, 1, False), (2, 2, False), (3, 3, False),
    ]  # fmt: skip
    assert "done" not in reports[-1]
    assert reports[-1]["values"] == {"knn": 3.0, "heldout_loss": -2.0}  # the last of each
    may_end.set()  # the fourth is known, but a scheduler must not stop a trial at its end
    last = trial.step()
    assert (last["epochs"], last["knn"], last["finished"], last["done"]) == (4, 4, True, True)


def test_a_trial_that_resumes_reports_its_latest_evaluation_again(
    start: Any,  # noqa: ANN401
    base: PretrainConfig,
) -> None:
    out = base.out / "trials" / "0007"
    write(out, evaluation(3, knn=1.0, heldout_loss=9.0), evaluation(6, knn=2.0))
    go = threading.Event()

    def run(out: Path) -> RunResult:
        go.wait()
        write(out, evaluation(9, knn=3.0))
        return ended(4 * STEPS)

    trial, folder = start(run)
    assert folder == out
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
    start: Any,  # noqa: ANN401
    values: dict[str, object],
    error: Exception | None,
    message: str,
) -> None:
    def run(out: Path) -> RunResult:
        if error is not None:
            write(out, evaluation(STEPS, knn=5.0))
            raise error
        return ended(2)  # somebody touched the run's own stop file

    trial, _ = start(run, **values)
    reports = [trial.step()]
    if error is not None:
        assert (reports[0]["knn"], "message" in reports[0]) == (5.0, False)
        reports.append(trial.step())
    assert reports[-1]["message"] == message
    assert not reports[-1]["finished"]
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        trial.step()


@pytest.mark.parametrize("how", ["cleanup", "sweep"])
def test_a_run_is_asked_to_stop_and_waited_for(
    start: Any,  # noqa: ANN401
    base: PretrainConfig,
    how: str,
) -> None:
    heard = threading.Event()

    def run(out: Path) -> RunResult:
        while not (out / STOP_FILE).exists():
            heard.wait(0.005)
        heard.set()
        return ended(2)

    trial, out = start(run)
    if how == "cleanup":
        trial.cleanup()
    else:
        (base.out / STOP_FILE).touch()
        report = trial.step()
        assert (report["interrupted"], report["done"], report["epochs"]) == (True, False, 2 / 3)
    assert heard.is_set()
    assert trial._run.done()
    assert (out / STOP_FILE).exists()
