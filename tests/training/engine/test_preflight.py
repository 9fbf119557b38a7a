"""What does not fit is said before anything is written; the size of checkpoints is foreseen."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from tests.runs import run, small_run
from tests.shard_sets import write_shard_set
from training.config.settings import CheckpointConfig, KnnConfig, OptimConfig
from training.encoders.settings import EncoderConfig
from training.engine.preflight import check_disk, checkpoint_size
from training.methods.byol.settings import BYOLConfig
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import MethodConfig
from training.methods.simclr.settings import SimCLRConfig

Usage = namedtuple("Usage", "free")
MOCO = MoCoConfig(queue_size=64, batch_norm_group=4)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "shards"
    write_shard_set(root, num_images=16)
    write_shard_set(root.parent / "bare", num_images=16, labels=False)
    write_shard_set(root.parent / "val", num_images=18, first_number=1000)
    return root


def test_first_weights_are_looked_for_where_the_folder_is_there_already(
    shards: Path, tmp_path: Path
) -> None:
    config = small_run(shards, tmp_path, encoder=EncoderConfig(init=str(tmp_path / "gone.pth")))
    with pytest.raises(InputError, match=r"no weights at .*gone\.pth"):
        run(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 64}, "16 images, fewer than one global batch of 64"),
        ({"data_fraction": 0.2}, r"^0\.2 of .*shards holds 4 images, fewer than"),
        ({"method": MoCoConfig(queue_size=60)}, "queue_size 60 is not a multiple"),
        ({"method": replace(MOCO, batch_norm_group=None)}, "leaves one group for the whole batch"),
        ({"knn": KnnConfig(val_shards=Path("bare"))}, "bare has no labels: run"),
        ({"encoder": EncoderConfig(init="gone.pth")}, "no weights at gone.pth"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(shards.parent)
    with pytest.raises(InputError, match=message):
        run(small_run(shards, tmp_path / "run", **{"method": MOCO, **changes}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "optimiser", "architecture"),
    [
        (
            MoCoConfig(queue_size=64, batch_norm_group=4, object_head="hard"),
            "sgd",
            "mobilenet_v3_small",
        ),
        (SimCLRConfig(batch_norm_group=4), "lars", "mobilenet_v3_small"),
        (
            BYOLConfig(batch_norm_group=4, head_width=32, predictor_width=32),
            "adamw",
            "regnet_y_400mf",
        ),
    ],
)
def test_the_size_is_what_a_checkpoint_takes(
    shards: Path, tmp_path: Path, method: MethodConfig, optimiser: str, architecture: str
) -> None:
    optim = OptimConfig(name=optimiser, lr=1e-3)  # type: ignore[arg-type]
    made = {"method": method, "optim": optim, "knn": KnnConfig()}
    made["encoder"] = EncoderConfig(architecture=architecture)
    config = small_run(shards, tmp_path / "run", epochs=1, **made)
    run(config)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    # Weights to start from are not looked for.
    size = checkpoint_size(replace(config, encoder=replace(config.encoder, init="nowhere.pth")))
    # Names and the like come on top.
    assert size.state < (checkpoint / "state.pt").stat().st_size < 1.02 * size.state + 1e5
    exported = sum(path.stat().st_size for path in (checkpoint / "backbone").iterdir())
    assert size.backbone < exported < 1.02 * size.backbone + 1e5


def test_too_little_room_is_said_with_the_numbers(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs" / "run"
    config = small_run(shards, out, checkpoint=CheckpointConfig(keep=3), knn=KnnConfig())
    size = checkpoint_size(config)
    needed = 4 * (size.state + size.backbone) + 2 * size.backbone
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed))
    check_disk(config)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed - 1))
    with pytest.raises(InputError, match=r"GB free, the run's checkpoints need 0\.\d+ GB \(4 more"):
        run(config)
    assert not out.parent.exists()
    # Checkpoints that are there already make room for newer ones.
    for step in (2, 4):
        (out / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    check_disk(config)
    with pytest.raises(InputError, match="checkpoints and those of 2 more runs need"):
        check_disk(config, more_runs=2)
