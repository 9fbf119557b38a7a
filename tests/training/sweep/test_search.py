"""Points of trials: the same for the same number and seed, within their domains."""

import importlib
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import InputError
from training.sweep.search import (
    Outcome,
    fixed_points,
    load_optuna,
    num_points,
    optuna_point,
    random_point,
)
from training.sweep.space import parse_space

SPACE = parse_space(
    choice=["fill=mean,blur,high_pass"],
    uniform=["masks.foreground_threshold=-1..0", "method.hard_negatives=0..2"],
    log_uniform=["optim.lr=0.001..0.1", "method.queue_size=16..1024"],
)
GRID = parse_space(grid=["epochs=1,2", "seed=0,1,2"])


def test_random_points_depend_on_seed_and_number_alone() -> None:
    points = fixed_points(SPACE, "random", seed=3, count=20)
    assert points == fixed_points(SPACE, "random", seed=3, count=30)[:20]
    assert points[7] == random_point(SPACE, seed=3, number=7)
    assert points != fixed_points(SPACE, "random", seed=4, count=20)
    assert len({str(point) for point in points}) == 20


def test_random_points_fill_their_domains() -> None:
    points = fixed_points(SPACE, "random", seed=0, count=400)
    assert {point["fill"] for point in points} == {"mean", "blur", "high_pass"}
    assert {point["method.hard_negatives"] for point in points} == {0, 1, 2}
    thresholds = np.array([point["masks.foreground_threshold"] for point in points], dtype=float)
    assert -1 <= thresholds.min() < -0.9
    assert -0.1 < thresholds.max() <= 0
    rates = np.array([point["optim.lr"] for point in points], dtype=float)
    assert 0.001 <= rates.min() < 0.0012
    assert 0.08 < rates.max() <= 0.1
    # half of the logarithm's interval on either side of 0.01: 200 of 400, sd 10
    assert 150 < int((rates < 0.01).sum()) < 250
    sizes = [point["method.queue_size"] for point in points]
    assert all(isinstance(size, int) and 16 <= size <= 1024 for size in sizes)


def test_how_many_trials_there_are() -> None:
    assert num_points(GRID, "grid", None) == 6
    assert num_points(GRID, "grid", 6) == 6
    assert num_points(SPACE, "random", None) == 8
    assert num_points(SPACE, "random", 30) == 30
    with pytest.raises(InputError, match="the grid has 6 points, and --num-trials says 4"):
        num_points(GRID, "grid", 4)
    with pytest.raises(InputError, match="nothing to sweep"):
        num_points({}, "random", 4)


def test_optuna_goes_where_it_was_good_and_depends_on_nothing_else() -> None:
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    space = parse_space(uniform=["masks.foreground_threshold=-1..1"])
    name = "masks.foreground_threshold"

    def ask(outcomes: list[Outcome], number: int) -> float:
        point = optuna_point(space, outcomes, seed=0, number=number, mode="max")
        return float(point[name])

    outcomes: list[Outcome] = []
    for number in range(24):
        value = ask(outcomes, number)
        assert -1 <= value <= 1
        outcomes.append(Outcome({name: value}, -((value - 0.5) ** 2)))
    found = [float(outcome.point[name]) for outcome in outcomes]
    assert np.mean(np.abs(np.array(found[-8:]) - 0.5)) < np.mean(np.abs(np.array(found[:8]) - 0.5))
    assert ask(outcomes, 24) == ask(outcomes[::-1], 24)


def test_optuna_takes_every_kind_of_domain() -> None:
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    for number in range(12):
        outcomes = [Outcome(random_point(SPACE, seed=0, number=n), float(n)) for n in range(number)]
        point = optuna_point(SPACE, outcomes, seed=0, number=number, mode="min")
        assert point.keys() == SPACE.keys()
        assert isinstance(point["method.queue_size"], int)
        assert point["fill"] in ("mean", "blur", "high_pass")


def test_without_optuna_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *rest: Any) -> None:  # noqa: ANN401
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"salmask\[optuna\]"):
        load_optuna()
