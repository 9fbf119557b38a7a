"""Calibrated batch norm: by hand, in groups, in batches; and what it leaves alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.shardset.manifest import DatasetInfo
from tests.training.evaluate.cases import NAMES, SIZE, pictures
from training.encoders.encoder import group_batch_norm
from training.evaluate import calibrate as module
from training.evaluate.calibrate import calibrate, hashed_subset
from training.evaluate.extract import ExtractConfig
from training.evaluate.labelled import ShardImages, StoredImages

CPU = torch.device("cpu")
CONFIG = ExtractConfig(view_size=SIZE)


class Normed(nn.Module):
    """Mean colours through dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.norm(self.dropout(x_BCHW.mean(dim=(2, 3))))
        return rows


@pytest.fixture
def images(tmp_path: Path, make_labelled_shards: Callable[..., DatasetInfo]) -> ShardImages:
    make_labelled_shards(tmp_path / "train", *pictures(30, seed=0), NAMES)
    return ShardImages(tmp_path / "train")


def run(network: nn.Module, images: StoredImages) -> None:
    calibrate(network, images, CONFIG, prepare=lambda x: 2 * x, device=CPU)


@pytest.mark.parametrize("groups", [None, 4])
def test_statistics_are_the_mean_over_batches(
    images: ShardImages, monkeypatch: pytest.MonkeyPatch, groups: int | None
) -> None:
    monkeypatch.setattr(module, "LARGEST_BATCH", 12)  # 30 images: three batches of ten
    network = Normed()
    if groups is not None:
        group_batch_norm(network, groups)
    network.norm.running_mean.fill_(7)  # type: ignore[union-attr]
    network.dropout.eval()
    before = torch.get_rng_state()
    run(network, images)
    assert torch.equal(torch.get_rng_state(), before), "dropout draws nothing"
    views = next(CONFIG.batches(images, range(30)))[0].float() / 255
    batches = (2 * views.mean(dim=(2, 3))).split(10)
    mean = torch.stack([batch.mean(dim=0) for batch in batches]).mean(dim=0)
    var = torch.stack([batch.var(dim=0) for batch in batches]).mean(dim=0)
    # Sums of 16 x 16 pixels in float32, in another order.
    torch.testing.assert_close(network.norm.running_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network.norm.running_var, var, rtol=1e-4, atol=1e-6)
    assert (network.training, network.dropout.training, network.norm.training) == (
        True,
        False,
        True,
    )
    assert network.norm.momentum == 0.1
    assert getattr(network.norm, "group_size", None) == groups


def test_a_network_without_batch_norm_is_left_alone(
    images: ShardImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExtractConfig, "batches", None)  # no image is read
    run(nn.Sequential(nn.Flatten(), nn.LayerNorm(3)), images)


def test_a_subset_is_of_few_shards_and_always_the_same() -> None:
    sizes = [5, 0, 7] * 20
    numbers = hashed_subset(sizes, 40)
    assert len(np.unique(numbers)) == len(numbers) == 40
    shards = np.searchsorted(np.cumsum(sizes), numbers, side="right")
    assert len(np.unique(shards)) <= module.NUM_SHARDS
    assert set(hashed_subset(sizes, 20)) < set(numbers)
    assert list(hashed_subset([3, 4], 100)) == list(range(7))
