"""What checkpoints take is known before the first one is written."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from tests.runs import run, small_run
from tests.shard_sets import write_shard_set
from training.config.pretrain import PretrainConfig
from training.config.settings import CheckpointConfig, KnnConfig, OptimConfig
from training.engine.disk import check_disk, checkpoint_size
from training.methods.byol.settings import BYOLConfig
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import MethodConfig
from training.methods.simclr.settings import SimCLRConfig

Usage = namedtuple("Usage", "free")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_images=16)
    return root


@pytest.mark.parametrize(
    ("method", "optimiser"),
    [
        (MoCoConfig(queue_size=64, batch_norm_group=4, object_head="hard"), "sgd"),
        (SimCLRConfig(batch_norm_group=4), "lars"),
        (BYOLConfig(batch_norm_group=4, head_width=32, predictor_width=32), "adamw"),
    ],
)
def test_it_is_what_a_checkpoint_takes_indeed(
    shards: Path, tmp_path: Path, method: MethodConfig, optimiser: str
) -> None:
    config = small_run(
        shards,
        tmp_path / "run",
        epochs=1,
        method=method,
        optim=OptimConfig(name=optimiser, lr=1e-3),  # type: ignore[arg-type]
        knn=KnnConfig(),
    )
    run(config)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    size = checkpoint_size(config)
    # Names and the like come on top.
    assert size.state < (checkpoint / "state.pt").stat().st_size < 1.02 * size.state + 1e5
    exported = sum(path.stat().st_size for path in (checkpoint / "backbone").iterdir())
    assert size.backbone < exported < 1.02 * size.backbone + 1e5


def limited(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free))


def test_too_little_room_is_said_with_the_numbers(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(
        shards, tmp_path / "runs" / "run", checkpoint=CheckpointConfig(keep=3), knn=KnnConfig()
    )
    size = checkpoint_size(config)
    needed = 4 * (size.state + size.backbone) + 2 * size.backbone
    limited(monkeypatch, needed)
    check_disk(config)
    limited(monkeypatch, needed - 1)
    with pytest.raises(InputError, match=r"GB free, the run's checkpoints need 0\.\d+ GB \(4 more"):
        run(config)
    assert not (tmp_path / "runs").exists()
    # Checkpoints that are there already make room for newer ones.
    for step in (2, 4):
        (tmp_path / "runs" / "run" / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    check_disk(config)


def test_weights_to_start_from_are_not_looked_at(shards: Path, tmp_path: Path) -> None:
    config: PretrainConfig = small_run(shards, tmp_path / "run")
    elsewhere = replace(config.encoder, init="nowhere.pth")
    assert checkpoint_size(replace(config, encoder=elsewhere)) == checkpoint_size(config)
