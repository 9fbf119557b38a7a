"""The settings of a sweep, checked before anything is read or written."""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import InputError
from training.config.fields import with_fields
from training.config.pretrain import PretrainConfig
from training.sweep.space import Point, Search, Space, check_values, fixed_points, num_points

Scheduler = Literal["asha", "none"]
OBJECTIVES = {"knn": "max", "heldout_loss": "min"}
"""What trials are compared by, and which direction is better."""
TRIALS_FOLDER = "trials"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All that decides a sweep's trials and their order.

    Attributes:
        base: the pretraining whose fields vary; its ``out`` is the sweep's folder.
        space: what varies.
        search: how points are chosen.
        num_trials: the number of trials.
        seed: seed of the points; the trials' own seed is that of the base.
        objective: what trials are compared by.
        scheduler: ``asha`` stops trials that fall behind (Li et al., "A System for Massively
            Parallel Hyperparameter Tuning", MLSys 2020).
        grace_epochs: epochs that every trial may train.
        reduction_factor: one trial of this many continues at each rung.
        name: name of the space, or empty.
    """

    base: PretrainConfig
    space: Space
    search: Search
    num_trials: int
    seed: int = 0
    objective: str = "knn"
    scheduler: Scheduler = "asha"
    grace_epochs: int = 1
    reduction_factor: int = 2
    name: str = ""

    @property
    def folder(self) -> Path:
        """The folder of the sweep and its trials."""
        return self.base.out

    @property
    def mode(self) -> str:
        """``max`` or ``min``."""
        return OBJECTIVES[self.objective]

    def points(self) -> list[Point]:
        """The points of all trials, or an empty list where results decide them."""
        return fixed_points(self.space, self.search, seed=self.seed, count=self.num_trials)

    def trial_config(self, number: int, point: Point) -> PretrainConfig:
        """The configuration of one trial."""
        return trial_config(self.base, f"{number:04d}", point)

    def epochs_of(self, point: Point) -> int:
        """Epochs of the trial with these values."""
        return int(point.get("epochs", self.base.epochs))


def trial_config(base: PretrainConfig, name: str, point: Point) -> PretrainConfig:
    """The base configuration with a point's values and a folder of its own.

    Raises:
        InputError: a field refuses its value.
    """
    return replace(with_fields(base, point), out=base.out / TRIALS_FOLDER / name)


def make_sweep(
    *,
    base: PretrainConfig,
    space: Space,
    search: Search | None,
    num_trials: int | None,
    **rest: Any,  # noqa: ANN401
) -> Sweep:
    """Checks the settings of a sweep. Reads nothing, writes nothing.

    Args:
        base: the pretraining whose fields vary.
        space: what varies.
        search: None means a grid where the space has only grids, else random.
        num_trials: None means all points of a grid, else 8.
        rest: other fields of `Sweep`.

    Raises:
        InputError: the space is empty, a field refuses a value, no trial would report the
            objective, optuna is not installed, or the scheduler's settings are out of range.
    """
    gridded = all(getattr(domain, "kind", "") == "grid" for domain in space.values())
    search = search or ("grid" if gridded else "random")
    if num_trials is not None and num_trials < 1:
        raise InputError(f"--num-trials {num_trials} must be 1 or more")
    count = num_points(space, search, num_trials)
    if search == "optuna" and importlib.util.find_spec("optuna") is None:
        raise InputError("--search optuna needs the extra optuna: pip install 'salmask[optuna]'")
    sweep = Sweep(base=base, space=space, search=search, num_trials=count, **rest)
    if "out" in space:
        raise InputError("out cannot be swept: every trial has a folder of its own")
    if search != "grid":  # every point of a grid is checked below
        check_values(space, base)
    if sweep.grace_epochs < 1 or sweep.reduction_factor < 2:
        raise InputError(
            f"--grace-epochs {sweep.grace_epochs} must be 1 or more, --reduction-factor "
            f"{sweep.reduction_factor} 2 or more"
        )
    if sweep.objective not in OBJECTIVES:
        raise InputError(
            f"unknown objective {sweep.objective!r}: choose one of {', '.join(OBJECTIVES)}"
        )
    if sweep.scheduler == "asha" and sweep.grace_epochs > base.epochs:
        raise InputError(
            f"--grace-epochs {sweep.grace_epochs} is more than the {base.epochs} epochs of a trial"
        )
    for config in [base, *(sweep.trial_config(n, point) for n, point in enumerate(sweep.points()))]:
        if sweep.objective == "knn" and config.knn.val_shards is None:
            raise InputError(
                "no trial would report the kNN accuracy that it is judged by: give "
                "--knn.val-shards (labelled shards, other images than --shards)"
            )
        if sweep.objective == "heldout_loss" and config.heldout.shards is None:
            raise InputError(
                "no trial would report the held-out loss that it is judged by: give "
                "--heldout.shards"
            )
    return sweep
