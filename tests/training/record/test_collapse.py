"""A collapse is told from a run's figures, and told once."""

from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import InputError
from training.record.collapse import (
    CollapseConfig,
    CollapseWatch,
    standard_error_of_difference,
)

CONFIG = CollapseConfig(min_spread=0.1, after_steps=50, knn_margin=3.0)
MANY = 10**9
"""Validation images without a sampling error to speak of."""


@pytest.mark.parametrize(
    ("step", "spread", "sign"),
    [
        (51, 0.5, None),
        (51, 0.1, None),
        (51, 0.09, "next to no spread (0.09, below 0.1)"),
        (50, 0.0, None),
    ],
)
def test_the_spread(step: int, spread: float, sign: str | None) -> None:
    said = CollapseWatch(CONFIG).look_at_spread(step, spread)
    assert (said is None) if sign is None else (said is not None and sign in said)


@pytest.mark.parametrize(
    ("accuracies", "warned_at"),
    [
        ([35.0, 32.0, 32.0], []),
        ([35.0, 31.9, 31.9], [2]),
        ([35.0, 28.0, 36.0, 38.0], []),
        ([35.0, 28.0, 36.0, 28.0], []),
        ([35.0, 28.0, 20.0, 10.0], [2]),
        ([35.0, 28.0, 20.0, 36.0, 20.0, 10.0], [2, 5]),
    ],
)
def test_a_knn_that_stays_low(accuracies: list[float], warned_at: list[int]) -> None:
    """A dip is none: many runs begin with one."""
    watch = CollapseWatch(CONFIG)
    said = [watch.look_at_knn(100 * n, knn, MANY) for n, knn in enumerate(accuracies)]
    assert [n for n, line in enumerate(said) if line is not None] == warned_at
    for n in warned_at:
        assert f"collapsed: kNN is {accuracies[n]:.2f} %" in str(said[n])
        assert "35.00 % of the untrained network" in str(said[n])


def test_a_run_whose_untrained_network_was_not_looked_at_is_not_judged_by_knn() -> None:
    watch = CollapseWatch(CONFIG)
    assert [watch.look_at_knn(step, 0.0, MANY) for step in (100, 200, 300)] == [None] * 3


@pytest.mark.parametrize(
    ("num_images", "knn", "collapsed"),
    [(60, 25.0, False), (60, 15.0, True), (1000, 30.0, True), (1000, 33.0, False)],
)
def test_few_validation_images_say_little(num_images: int, knn: float, collapsed: bool) -> None:
    """Two standard errors of the difference: 17 points of 60 images, 4 of 1,000."""
    watch = CollapseWatch(CONFIG)
    said = [watch.look_at_knn(100 * n, k, num_images) for n, k in enumerate((40.0, knn, knn))]
    assert (said[2] is not None) == collapsed
    if collapsed:
        assert f"({num_images} validation images)" in str(said[2])


def test_the_standard_error_is_that_of_simulated_accuracies() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.binomial(60, p, size=100_000) / 60 * 100 for p in (0.4, 0.25))
    # The standard deviation of 100,000 draws is off by 0.2 % of itself (one standard error).
    expected = pytest.approx(float((first - second).std()), rel=0.01)
    assert standard_error_of_difference(40, 25, 60) == expected


def test_a_warning_comes_when_a_figure_goes_wrong_and_not_again() -> None:
    watch = CollapseWatch(CONFIG)
    spreads = [(100, 0.5), (200, 0.01), (300, 0.01), (400, 0.9), (500, 0.01)]
    said = [watch.look_at_spread(step, spread) is not None for step, spread in spreads]
    assert said == [False, True, False, False, True]


def test_a_resumed_run_remembers() -> None:
    watch, resumed = CollapseWatch(CONFIG), CollapseWatch(CONFIG)
    watch.look_at_knn(0, 35.0, MANY)
    watch.look_at_knn(100, 20.0, MANY)
    watch.look_at_spread(100, 0.01)
    resumed.load_state_dict(watch.state_dict())
    assert resumed.look_at_spread(200, 0.01) is None
    assert resumed.look_at_knn(200, 20.0, MANY) is not None


def test_a_checkpoint_from_before_knn_was_looked_at_twice_still_resumes() -> None:
    resumed = CollapseWatch(CONFIG)
    resumed.load_state_dict({"untrained_knn": 35.0, "collapsed": []})
    assert resumed.look_at_knn(200, 20.0, MANY) is None
    assert resumed.look_at_knn(300, 20.0, MANY) is not None


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"min_spread": 1.0}, r"collapse\.min_spread 1"),
        ({"min_spread": -0.1}, r"collapse\.min_spread"),
        ({"after_steps": -1}, r"collapse\.after_steps"),
        ({"knn_margin": -1.0}, r"collapse\.knn_margin"),
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        CollapseConfig(**wrong)
