"""The recipe auto: what it chooses from images and device, why, and that a run keeps it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.pretrain_options import read_command_line
from pipeline.core.errors import InputError
from tests.shard_sets import write_images
from training.config import auto
from training.config.auto import TINY, Seen, choose, look
from training.config.fields import with_fields
from training.config.file import write_config
from training.config.recipes import find_recipe
from training.engine.preflight import check_split

GPU: dict[str, Any] = {"device": "cuda", "gpu_mib": 81_000, "cores": 32}


def values(seen: Seen) -> dict[str, object]:
    return {name: value for name, (value, _) in choose(seen).items()}


@pytest.mark.parametrize(
    ("seen", "network", "size", "batch", "epochs", "workers"),
    [
        (Seen(num_images=4800, side=48), TINY, 48, 64, 67, 1),
        (Seen(num_images=4800, side=47), TINY, 32, 64, 67, 1),
        (Seen(num_images=40, side=300), TINY, 48, 8, 400, 1),
        (Seen(num_images=10**6, side=300), TINY, 48, 64, 2, 1),
        (Seen(num_images=4800, side=300, has_timm=False), "resnet18", 64, 64, 27, 1),
        (Seen(num_images=4800, side=300, num_gpus=1, **GPU), "resnet18", 224, 256, 400, 1),
        (Seen(num_images=10**6, side=180, num_gpus=8, **GPU), "resnet50", 128, 256, 20, 8),
        (Seen(num_images=10**6, side=300, num_gpus=3, **GPU), "resnet50", 224, 256, 20, 2),
        (
            Seen(num_images=10**6, side=300, num_gpus=1, device="cuda", gpu_mib=8_000),
            *("resnet50", 224, 16, 20, 1),
        ),
        (Seen(num_images=4800, side=300, on_cluster=True), "resnet18", 64, 64, 27, "auto"),
    ],
)
def test_what_follows_from_images_and_device(
    seen: Seen, network: str, size: int, batch: int, epochs: int, workers: object
) -> None:
    found = values(seen)
    names = ("encoder.architecture", "views.size", "batch_size", "epochs", "num_workers")
    assert [found[name] for name in names] == [network, size, batch, epochs, workers]
    assert found["optim.lr"] == pytest.approx(0.03 * batch / 64)


@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(1, 10**7),
    side=st.integers(1, 5000),
    num_gpus=st.integers(0, 8),
    mib=st.floats(2000, 200_000),
)
def test_every_choice_can_be_split(images: int, side: int, num_gpus: int, mib: float) -> None:
    device = "cuda" if num_gpus else "cpu"
    seen = Seen(num_images=images, side=side, device=device, num_gpus=num_gpus, gpu_mib=mib)
    config = with_fields(find_recipe("simclr_small")("s", Path("o")), values(seen))
    assert isinstance(config.num_workers, int)
    check_split(config, config.num_workers)
    assert images < 24 or config.batch_size <= images // 3
    assert config.views.size <= max(32, side)


def test_from_the_command_line_with_reasons_and_frozen_in_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    images = [np.full((40 + n, 90, 3), n, np.uint8) for n in range(50)]
    write_images(tmp_path / "shards", images, [0] * 50)
    assert look(tmp_path / "shards").side == 64  # the median of 40 to 89, rounded down
    words = ["--shards", str(tmp_path / "shards"), "--out", str(tmp_path / "out")]
    name, _, config = read_command_line(["--recipe", "auto", *words, "--epochs", "3"])
    said = capsys.readouterr().out.splitlines()
    assert name == "auto"
    assert (config.batch_size, config.views.size, config.epochs) == (16, 48, 3)
    names = [line.split()[1] for line in said]  # no reason for epochs, which were given
    assert names == ["encoder.architecture", "views.size", "batch_size", "num_workers"]
    _, _, other = read_command_line(["--recipe", "auto", *words, "--method", "moco_v2"])
    assert (other.method.name, other.method.batch_norm_group) == ("moco_v2", 8)
    # A run goes on with what it began with, also when more images have come.
    write_config(config.out, config, "digest")
    monkeypatch.setattr(auto, "look", lambda _: Seen(num_images=4800, side=300))
    assert read_command_line(["--recipe", "auto", *words])[2] == config
    first = [str(config.shards), str(config.out)]
    assert read_command_line([*first, "--recipe", "auto"])[2] == config
    with pytest.raises(InputError, match="auto looks at the images: name their --shards"):
        read_command_line(["--recipe", "auto", "--out", "o"])
    with pytest.raises(SystemExit, match="0"):
        read_command_line(["--recipe", "auto", "--help"])
