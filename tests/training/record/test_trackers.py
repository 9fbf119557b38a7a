"""MLflow and Weights & Biases are told what the record holds, and never end a run."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipeline.core.errors import InputError
from tests.runs import StopsAfter, numbers, run, small_run
from tests.shard_sets import write_shard_set
from training.config.pretrain import KnnConfig, PretrainConfig
from training.engine.preflight import preflight
from training.record.trackers import (
    MLflowTracker,
    TrackConfig,
    Trackers,
    check_trackers,
)


def database(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tables take seconds to make."""
    folder = tmp_path_factory.mktemp("mlflow")
    mlflow.MlflowClient(database(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def empty(tmp_path: Path, empty_database: Path) -> Path:
    """A database of one's own."""
    return Path(shutil.copy(empty_database, tmp_path))


@pytest.fixture
def config(tmp_path: Path, empty: Path) -> PretrainConfig:
    write_shard_set(tmp_path / "shards", num_images=16)
    return small_run(
        tmp_path / "shards",
        tmp_path / "run",
        knn=KnnConfig(),
        track=TrackConfig(mlflow=database(tmp_path)),
    )


def mlflow_run(folder: Path) -> tuple[Any, Any]:
    client = mlflow.MlflowClient(database(folder))
    experiment = client.get_experiment_by_name("salmask")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    return client, found


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(
    tmp_path: Path, config: PretrainConfig
) -> None:
    assert not run(config, StopsAfter(2)).finished
    client, broken_off = mlflow_run(tmp_path)
    assert broken_off.info.status == "KILLED"
    assert run(config).finished
    _, found = mlflow_run(tmp_path)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["optim.lr"] == "0.01"
    assert found.data.params["masks.strategy"] == config.masks.strategy
    history = client.get_metric_history(found.info.run_id, "train/loss")
    ours = [(e["step"], e["loss"]) for e in numbers(config.out) if "loss" in e]
    assert [(m.step, m.value) for m in history] == ours
    assert (tmp_path / "mlflow-artifacts").is_dir()
    (sheet,) = client.list_artifacts(found.info.run_id, "masks/step-00000000")
    assert sheet.path.endswith("contact_sheet.png")


def words_in(log: bytes, words: set[bytes]) -> set[bytes]:
    """Those that a file of wandb's holds; a header before each block would cut one in two."""
    data = b"".join(log[at + 7 : at + 32768] for at in range(0, len(log), 32768))
    return {word for word in words if word in data}


def test_wandb_offline(
    tmp_path: Path, config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    track = TrackConfig(wandb="trials", name="first")
    assert run(replace(config, track=track)).finished
    (folder,) = (config.out / "wandb").glob("offline-run-*")
    known = json.loads((config.out / "tracked.json").read_text())
    assert folder.name.endswith(known["wandb"])
    (recorded,) = folder.glob("run-*.wandb")
    words = {b"train/loss", b"embedding_spread", b"first", b"optim"}
    # Its own process writes it, on a busy machine after the run has ended.
    deadline = time.monotonic() + 30
    while (
        missing := words - words_in(recorded.read_bytes(), words)
    ) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not missing
    assert list(folder.glob("files/media/images/masks_*.png"))


def test_a_tracker_that_cannot_be_reached_ends_a_new_run_before_its_first_step(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = replace(config, track=TrackConfig(mlflow="http://127.0.0.1:9"))
    with pytest.raises(InputError, match=r"^track\.mlflow cannot be used: "):
        run(nowhere)
    assert run(config, StopsAfter(2)).step == 2
    # A resumed run goes on without it, and says so.
    assert run(nowhere).finished
    assert "warning: mlflow is no longer told of this run" in capsys.readouterr().out


def test_a_tracker_that_fails_in_mid_run_is_left_with_a_warning(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(self: object, step: int, values: dict[str, float]) -> None:
        raise OSError("no route to host\nand a trace")

    monkeypatch.setattr(MLflowTracker, "numbers", fails)
    assert run(config).finished
    lines = capsys.readouterr().out.splitlines()
    assert "warning: mlflow is no longer told of this run: no route to host" in lines


def test_training_never_waits_for_a_tracker(
    tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.record.trackers.CLOSE_SECONDS", 0.1)
    release = threading.Event()
    monkeypatch.setattr(MLflowTracker, "numbers", lambda *_: release.wait())
    trackers = Trackers(TrackConfig(mlflow=database(tmp_path)), tmp_path, {})
    trackers.numbers(1, {"loss": 1.0})
    trackers.close(finished=True)
    release.set()


def test_what_is_not_installed_is_said_before_anything_is_written(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing: Callable[[str], None] = lambda name: None  # noqa: E731
    monkeypatch.setattr("training.record.trackers.find_spec", missing)
    with pytest.raises(InputError, match=r"track\.mlflow needs .* pip install 'salmask\[mlflow\]'"):
        preflight(config, 1)
    assert not config.out.exists()
    check_trackers(TrackConfig())
    with pytest.raises(InputError, match="give the absolute path"):
        check_trackers(TrackConfig(mlflow="sqlite:///mlflow.db"))
