"""A collapse is told from a run's figures, once; and at the end whether the run has learned."""

from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import InputError
from training.config.settings import CollapseConfig
from training.evaluate.checks import IMAGES, INSTANCE_ACCURACY, OBJECT_SENSITIVITY, SPREAD
from training.record.learning import CollapseWatch, Learning, standard_error_of_difference

CONFIG = CollapseConfig(min_spread=0.1, after_steps=50, knn_margin=3.0)
MANY = 10**9
"""Validation images without a sampling error to speak of."""


def test_the_spread_warns_when_it_goes_wrong_and_not_again() -> None:
    watch = CollapseWatch(CONFIG)
    spreads = [(50, 0.0), (51, 0.5), (52, 0.1), (200, 0.09), (300, 0.01), (400, 0.9), (500, 0.01)]
    said = [watch.look_at_spread(step, spread) for step, spread in spreads]
    assert [line is not None for line in said] == [False, False, False, True, False, False, True]
    assert "collapsed: the embeddings have next to no spread (0.09, below 0.1)" in str(said[3])


@pytest.mark.parametrize(
    ("num_images", "accuracies", "warned_at"),
    [
        (MANY, [35.0, 32.0, 32.0], []),
        (MANY, [35.0, 31.9, 31.9], [2]),
        (MANY, [35.0, 28.0, 36.0, 28.0], []),  # a dip is none: many runs begin with one
        (MANY, [35.0, 28.0, 20.0, 36.0, 20.0, 10.0], [2, 5]),
        # Two standard errors of the difference: 17 points of 60 images, 4 of 1,000.
        (60, [40.0, 25.0, 25.0], []),
        (60, [40.0, 15.0, 15.0], [2]),
        (1000, [40.0, 30.0, 30.0], [2]),
        (1000, [40.0, 33.0, 33.0], []),
    ],
)
def test_a_knn_that_stays_low_warns(
    num_images: int, accuracies: list[float], warned_at: list[int]
) -> None:
    watch = CollapseWatch(CONFIG)
    said = [watch.look_at_knn(100 * n, knn, num_images) for n, knn in enumerate(accuracies)]
    assert [n for n, line in enumerate(said) if line is not None] == warned_at
    unjudged = CollapseWatch(CONFIG)  # its untrained network was not looked at
    assert not any(unjudged.look_at_knn(100, knn, num_images) for knn in accuracies)
    for n in warned_at:
        assert f"collapsed: kNN is {accuracies[n]:.2f} %" in str(said[n])
        assert f"{accuracies[0]:.2f} % of the untrained network ({num_images} val" in str(said[n])


def test_the_standard_error_is_that_of_simulated_accuracies() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.binomial(60, p, size=100_000) / 60 * 100 for p in (0.4, 0.25))
    # The standard deviation of 100,000 draws is off by 0.2 % of itself (one standard error).
    expected = pytest.approx(float((first - second).std()), rel=0.01)
    assert standard_error_of_difference(40, 25, 60) == expected


@pytest.mark.parametrize("was_low", [{}, {"knn_was_low": True}])
def test_a_resumed_watch_remembers(was_low: dict[str, bool]) -> None:
    """Checkpoints of earlier versions do not hold whether kNN was low."""
    watch, resumed = CollapseWatch(CONFIG), CollapseWatch(CONFIG)
    watch.look_at_knn(0, 35.0, MANY)
    watch.look_at_knn(100, 20.0, MANY)
    watch.look_at_spread(100, 0.01)
    state = dict(watch.state)
    assert state.pop("knn_was_low")
    resumed.state |= state | was_low
    assert resumed.look_at_spread(200, 0.01) is None
    assert (resumed.look_at_knn(200, 20.0, MANY) is not None) == bool(was_low)
    assert (resumed.look_at_knn(300, 20.0, MANY) is not None) != bool(was_low)


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


def figures(accuracy: float, spread: float, images: int = 128) -> dict[str, float]:
    return {IMAGES: images, INSTANCE_ACCURACY: accuracy, SPREAD: spread}


@pytest.mark.parametrize(
    ("start", "end", "line"),
    [
        (
            figures(4, 0.21) | {OBJECT_SENSITIVITY: 0.02},
            figures(61, 0.93) | {OBJECT_SENSITIVITY: 0.15},
            "yes: instance accuracy 4 -> 61 %, spread 0.21 -> 0.93, "
            "object sensitivity 0.020 -> 0.150",
        ),
        # Two standard errors are 12 points of 128 images.
        (figures(30, 0.5), figures(40, 0.6), "unclear: instance accuracy 30 -> 40 %, spread 0.50"),
        (figures(30, 0.5), figures(43, 0.6), "yes: instance accuracy 30 -> 43 %, "),
        (figures(30, 0.5, 20), figures(43, 0.6, 20), "unclear: "),
        (figures(60, 0.5), figures(40, 0.6), "no: instance accuracy 60 -> 40 %"),
        (figures(4, 0.5), figures(61, 0.05), "no, the embeddings have collapsed: instance acc"),
    ],
)
def test_the_verdict(start: dict[str, float], end: dict[str, float], line: str) -> None:
    learning, resumed, of_earlier_version = (Learning(CONFIG) for _ in range(3))
    assert learning.verdict() is None
    learning.take(0, start)
    resumed.state |= learning.state
    for follower in (resumed, of_earlier_version):
        follower.take(100, end)
    assert str(resumed.verdict()).startswith(line)
    assert of_earlier_version.verdict() is None
