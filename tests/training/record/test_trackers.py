"""MLflow and Weights & Biases are told what the record holds, and never end a run.

Their libraries are slow to import, and every process of the tests imports this file.
"""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from tests.runs import StopsAfter, numbers, run, small_run
from tests.shard_sets import write_shard_set
from training.config.settings import KnnConfig, TrackConfig
from training.engine.preflight import preflight
from training.record.metrics import MetricsLog
from training.record.trackers import Trackers, _MLflow, check_trackers

NOWHERE = TrackConfig(mlflow="http://127.0.0.1:9")


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tables take seconds to make."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def track(tmp_path: Path, empty_database: Path) -> TrackConfig:
    """A database of one's own."""
    return TrackConfig(mlflow=f"sqlite:///{shutil.copy(empty_database, tmp_path)}")


def record(folder: Path, track: TrackConfig, steps: range) -> Trackers:
    """What a run records: a loss of every step, a picture, and its end after step 4."""
    trackers = Trackers(track, folder, {"optim": {"lr": 0.01}})
    log = MetricsLog(folder, resume_step=steps.start - 1, trackers=trackers)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "sheet.png")
    log.picture(step=steps.start, name="masks", path=folder / "sheet.png")
    for step in steps:
        log.write(step=step, kind="train", values={"loss": 1 / step})
    log.close(finished=steps.stop == 5)
    return trackers


def mlflow_run(track: TrackConfig) -> tuple[Any, Any]:
    import mlflow

    client = mlflow.MlflowClient(track.mlflow)
    experiment = client.get_experiment_by_name("salmask")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    return client, found


def test_a_resumed_run_continues_the_same_mlflow_run(tmp_path: Path, track: TrackConfig) -> None:
    record(tmp_path, track, range(1, 3))
    assert mlflow_run(track)[1].info.status == "KILLED"
    assert record(tmp_path, track, range(3, 5)).lost() == []
    client, found = mlflow_run(track)
    assert (found.info.status, found.info.run_name) == ("FINISHED", tmp_path.name)
    assert found.data.params == {"optim.lr": "0.01"}
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(step, 1 / step) for step in range(1, 5)]
    assert (tmp_path / "mlflow-artifacts").is_dir()
    (sheet,) = client.list_artifacts(found.info.run_id, "masks/step-00000003")
    assert sheet.path.endswith("sheet.png")


def test_a_training_records_there_and_goes_on_without(
    tmp_path: Path,
    track: TrackConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_shard_set(tmp_path / "shards", num_images=16)
    out = tmp_path / "run"
    config = small_run(tmp_path / "shards", out, epochs=1, knn=KnnConfig(), log_every_steps=1)
    message = r"^track\.mlflow cannot be used: no server answers at 127\.0\.0\.1:9 "
    with pytest.raises(InputError, match=message):
        preflight(replace(config, track=NOWHERE), 1)
    with pytest.raises(InputError, match=message):
        run(replace(config, track=NOWHERE))
    assert run(replace(config, track=track), StopsAfter(1)).step == 1
    client, found = mlflow_run(track)
    assert found.data.params["masks.strategy"] == config.masks.strategy
    (loss,) = client.get_metric_history(found.info.run_id, "train/loss")
    assert loss.value == next(entry["loss"] for entry in numbers(out) if "loss" in entry)
    assert client.list_artifacts(found.info.run_id, "masks/step-00000000")
    assert run(replace(config, track=NOWHERE)).finished
    assert "warning: mlflow is no longer told of this run" in capsys.readouterr().out


def words_in(log: bytes, words: set[bytes]) -> set[bytes]:
    """Those that a file of wandb's holds; a header before each block would cut one in two."""
    data = b"".join(log[at + 7 : at + 32768] for at in range(0, len(log), 32768))
    return {word for word in words if word in data}


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    log, logged = wandb.Run.log, []

    def keep(self: wandb.Run, values: dict[str, Any], step: int) -> None:
        logged.append((step, *values))
        log(self, values, step=step)

    monkeypatch.setattr(wandb.Run, "log", keep)
    record(tmp_path, TrackConfig(wandb="trials", name="first"), range(1, 5))
    assert logged == [(1, "masks"), *((step, "train/loss") for step in range(1, 5))]
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    known = json.loads((tmp_path / "tracked.json").read_text())
    assert folder.name.endswith(known["wandb"])
    (recorded,) = folder.glob("run-*.wandb")
    missing = {b"train/loss", b"first", b"optim"}
    # Its own process writes it, on a busy machine after the run has ended.
    deadline = time.monotonic() + 30
    while missing and time.monotonic() < deadline:
        missing -= words_in(recorded.read_bytes(), missing)
        time.sleep(0.1)
    assert not missing
    assert list(folder.glob("files/media/images/masks_*.png"))


def test_a_tracker_that_fails_in_mid_run_is_given_up_and_nothing_waits_for_one(
    tmp_path: Path, track: TrackConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object, step: int, values: dict[str, float]) -> None:
        raise OSError("no route to host\nand a trace")

    monkeypatch.setattr(_MLflow, "numbers", fails)
    trackers = record(tmp_path, track, range(1, 5))
    assert trackers.lost() == ["mlflow is no longer told of this run: no route to host"]
    assert trackers.lost() == []
    monkeypatch.setattr("training.record.trackers.CLOSE_SECONDS", 0.1)
    release = threading.Event()
    monkeypatch.setattr(_MLflow, "numbers", lambda *_: release.wait())
    record(tmp_path, track, range(1, 5))
    release.set()


def test_what_is_not_installed_is_said_before_anything_is_written(
    tmp_path: Path, track: TrackConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard_set(tmp_path / "shards", num_images=16)
    config = small_run(tmp_path / "shards", tmp_path / "run", knn=KnnConfig(), track=track)
    monkeypatch.setattr("training.record.trackers.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"track\.mlflow needs .* pip install 'salmask\[mlflow\]'"):
        preflight(config, 1)
    assert not config.out.exists()
    secret = replace(config, track=TrackConfig(mlflow="http://me:secret@host:5000"))
    assert secret.to_json()["track"]["mlflow"] == "http://host:5000"
    check_trackers(TrackConfig())
    with pytest.raises(InputError, match="give the absolute path"):
        check_trackers(TrackConfig(mlflow="sqlite:///mlflow.db"))
