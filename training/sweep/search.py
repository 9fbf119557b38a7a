"""Which point a trial tries: a function of its number, the seed and, for Optuna, earlier results.

Nothing is remembered between trials, so a sweep that was broken off goes on with the points that
it would have tried.
"""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.core.errors import InputError
from training.core.fields import Plain
from training.sweep.space import Interval, Point, Space, Values, check_not_empty, grid_points

Search = Literal["grid", "random", "optuna"]
SEARCHES: tuple[Search, ...] = ("grid", "random", "optuna")
STARTUP_TRIALS = 8
"""Optuna's first trials, which are drawn at random: fewer teach its model nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a trial that has ended found at its point."""

    point: Point
    objective: float


def num_points(space: Space, search: Search, num_trials: int | None) -> int:
    """How many trials a sweep has.

    Args:
        space: what varies.
        search: how points are chosen.
        num_trials: as a person gave it; None: all points of a grid, 8 others.

    Raises:
        InputError: the space is empty, a grid of an interval, or more trials than a grid has.
    """
    check_not_empty(space)
    if search != "grid":
        return 8 if num_trials is None else num_trials
    count = len(grid_points(space))
    if num_trials is not None and num_trials != count:
        raise InputError(
            f"the grid has {count} points, and --num-trials says {num_trials}: leave it out, or "
            "choose --search random"
        )
    return count


def fixed_points(space: Space, search: Search, *, seed: int, count: int) -> list[Point]:
    """The points of trials 0 to ``count`` - 1 where they do not depend on results.

    Returns:
        An empty list for Optuna.
    """
    if search == "grid":
        return grid_points(space)
    if search == "random":
        return [random_point(space, seed=seed, number=number) for number in range(count)]
    return []


def random_point(space: Space, *, seed: int, number: int) -> Point:
    """The point of a trial by its number: every field drawn on its own."""
    rng = np.random.default_rng([seed, number])
    return {name: _drawn(domain, rng) for name, domain in space.items()}


def _drawn(domain: Values | Interval, rng: np.random.Generator) -> Plain:
    if isinstance(domain, Values):
        return domain.values[int(rng.integers(len(domain.values)))]
    if domain.whole and domain.kind == "uniform":
        return int(rng.integers(math.ceil(domain.low), math.floor(domain.high) + 1))
    if domain.kind == "uniform":
        return float(rng.uniform(domain.low, domain.high))
    number = math.exp(rng.uniform(math.log(domain.low), math.log(domain.high)))
    return round(number) if domain.whole else float(np.clip(number, domain.low, domain.high))


def optuna_point(
    space: Space, outcomes: Sequence[Outcome], *, seed: int, number: int, mode: str
) -> Point:
    """The point that Optuna's tree-structured Parzen estimator proposes.

    Args:
        space: what varies.
        outcomes: of the trials that have ended, in any order.
        seed: of the sweep.
        number: of the trial.
        mode: ``max`` or ``min``.
    """
    optuna = load_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    domains = {name: _distribution(optuna, domain) for name, domain in space.items()}
    # The order of the outcomes must not count: trials end in another order after a resume.
    ordered = sorted(outcomes, key=lambda outcome: str(outcome.point))
    study = optuna.create_study(
        direction="maximize" if mode == "max" else "minimize",
        sampler=optuna.samplers.TPESampler(
            seed=seed * 1_000_003 + number, n_startup_trials=STARTUP_TRIALS
        ),
    )
    for outcome in ordered:
        study.add_trial(
            optuna.trial.create_trial(
                params=outcome.point, distributions=domains, value=outcome.objective
            )
        )
    params: dict[str, Any] = study.ask(domains).params
    return {name: params[name] for name in space}


def load_optuna() -> Any:  # noqa: ANN401  (a module that need not be there)
    """Optuna.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise InputError(
            "--search optuna needs the extra optuna: pip install 'salmask[optuna]'"
        ) from error


def _distribution(optuna: Any, domain: Values | Interval) -> Any:  # noqa: ANN401
    if isinstance(domain, Values):
        return optuna.distributions.CategoricalDistribution(domain.values)
    log = domain.kind == "log_uniform"
    if domain.whole:
        low, high = math.ceil(domain.low), math.floor(domain.high)
        return optuna.distributions.IntDistribution(low, high, log=log)
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=log)
