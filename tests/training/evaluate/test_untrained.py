"""The mean over random networks, and its interval."""

import math
from dataclasses import replace

import pytest

from training.evaluate.results import Result
from training.evaluate.untrained import over_seeds


def result(seed: int, figure: float, **changes: object) -> Result:
    made = Result(
        checkpoint="untrained",
        encoder="untrained",
        architecture="resnet18",
        checkpoint_digest=f"random:{seed}",
        train="train",
        val="val",
        train_digest="t",
        val_digest="v",
        protocol="knn",
        seed=0,
        name="top1",
        figure=figure,
        interval=(figure - 3, figure + 4),
        num_train=10,
        num_val=10,
        more={"mean_per_class": figure / 2},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_images_and_seeds_both_widen_the_interval() -> None:
    (found,) = over_seeds([[result(seed, 30.0 + 2 * seed)] for seed in range(3)])
    assert found.figure == 32
    of_seeds = 4.303 * 2 / math.sqrt(3)  # the standard deviation of 30, 32, 34 is 2
    expected = (32 - math.hypot(3, of_seeds), 32 + math.hypot(4, of_seeds))
    assert found.interval == pytest.approx(expected)
    assert found.checkpoint_digest == "random:0,1,2"
    assert found.more == {"mean_per_class": 16, "seed 0": 30, "seed 1": 32, "seed 2": 34}


def test_equal_seeds_leave_the_interval_of_the_images() -> None:
    (found,) = over_seeds([[result(seed, 30.0)] for seed in range(3)])
    assert found.interval == pytest.approx((27, 34))


def test_what_has_no_interval_gets_none() -> None:
    (found,) = over_seeds([[result(seed, 0.5 + seed, interval=None)] for seed in range(3)])
    assert (found.figure, found.interval) == (1.5, None)


def test_one_seed_and_a_trained_network_stay_as_they_are() -> None:
    (found,) = over_seeds([[result(0, 30.0)]])
    assert (found.interval, found.checkpoint_digest) == ((27, 34), "random:0")
    assert "seed 0" not in found.more
    trained = [result(0, 30.0, encoder="query", checkpoint_digest="ab")]
    assert over_seeds([trained]) is trained
