"""Calibrated batch norm by hand, and the mean over random networks."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.evaluate.cases import Normed, extractor_of, folders, made_result
from training.encoders.encoder import group_batch_norm
from training.evaluate import encoders
from training.evaluate.encoders import calibrate, over_seeds
from training.evaluate.features import FeatureExtractor
from training.evaluate.results import Result


@pytest.mark.parametrize("groups", [None, 4])
def test_statistics_are_the_mean_over_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int | None
) -> None:
    images = folders(tmp_path, 30, seed=0)
    monkeypatch.setattr(encoders, "LARGEST_BATCH", 12)  # 30 images: three batches of ten
    network = Normed()
    if groups is not None:
        group_batch_norm(network, groups)
    network.norm.running_mean.fill_(7)  # type: ignore[union-attr]
    network.dropout.eval()
    before = torch.get_rng_state()
    extractor = extractor_of(network, prepare=lambda x: 2 * x)
    calibrate(extractor, images)
    assert torch.equal(torch.get_rng_state(), before), "dropout draws nothing"
    views = next(extractor.batches(images, range(30)))[0].float() / 255
    batches = (2 * views.mean(dim=(2, 3))).split(10)
    mean = torch.stack([batch.mean(dim=0) for batch in batches]).mean(dim=0)
    var = torch.stack([batch.var(dim=0) for batch in batches]).mean(dim=0)
    # Sums of 16 x 16 pixels in float32, in another order.
    torch.testing.assert_close(network.norm.running_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network.norm.running_var, var, rtol=1e-4, atol=1e-6)
    modes = (network.training, network.dropout.training, network.norm.training)
    assert modes == (True, False, True)
    assert network.norm.momentum == 0.1
    assert getattr(network.norm, "group_size", None) == groups


def test_a_network_without_batch_norm_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FeatureExtractor, "batches", None)  # no image is read
    calibrate(extractor_of(nn.LayerNorm(3)), folders(tmp_path, 3, seed=0))


def result(seed: int, figure: float, **changes: object) -> Result:
    fields = {
        "checkpoint": "untrained",
        "encoder": "untrained",
        "checkpoint_digest": f"random:{seed}",
        "figure": figure,
        "interval": (figure - 3, figure + 4),
        "more": {"mean_per_class": figure / 2},
    }
    return made_result(**(fields | changes))


def test_images_and_seeds_both_widen_the_interval() -> None:
    (found,) = over_seeds([[result(seed, 30.0 + 2 * seed)] for seed in range(3)])
    assert found.figure == 32
    of_seeds = 4.302653 * 2 / math.sqrt(3)  # the standard deviation of 30, 32, 34 is 2
    expected = (32 - math.hypot(3, of_seeds), 32 + math.hypot(4, of_seeds))
    assert found.interval == pytest.approx(expected)
    assert found.checkpoint_digest == "random:0,1,2"
    assert found.more == {"mean_per_class": 16, "seed 0": 30, "seed 1": 32, "seed 2": 34}
    (same,) = over_seeds([[result(seed, 30.0)] for seed in range(3)])
    assert same.interval == pytest.approx((27, 34)), "that of the images"
    near = [[result(seed, figure)] for seed, figure in enumerate((97.0, 99.0))]
    assert np.array(over_seeds(near)[0].interval).max() == 100


def test_without_interval_or_seeds_there_is_nothing_to_widen() -> None:
    (found,) = over_seeds([[result(seed, 0.5 + seed, interval=None)] for seed in range(3)])
    assert (found.figure, found.interval) == (1.5, None)
    (found,) = over_seeds([[result(0, 30.0)]])
    assert (found.interval, found.checkpoint_digest) == ((27, 34), "random:0")
    assert "seed 0" not in found.more
    trained = [result(0, 30.0, encoder="query", checkpoint_digest="ab")]
    assert over_seeds([trained]) is trained
