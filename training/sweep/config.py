"""A sweep as it was asked for."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import InputError
from training.config.pretrain import PretrainConfig
from training.core.fields import with_fields
from training.sweep.ledger import TRIALS_FOLDER
from training.sweep.search import Search, fixed_points, load_optuna, num_points
from training.sweep.space import Point, Space, check_values

Scheduler = Literal["asha", "none"]
OBJECTIVES = {"knn": "max", "heldout_loss": "min"}
"""What a trial is judged by, and which way is better."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All that decides a sweep's trials and their order.

    Attributes:
        base: the pretraining of which fields vary; its ``out`` is the sweep's folder.
        space: what varies.
        search: how points are chosen.
        num_trials: in all.
        seed: of the points (the trials' own seed is the base's).
        objective: what a trial is judged by.
        scheduler: ``asha`` stops trials that fall behind (Li et al., "A System for Massively
            Parallel Hyperparameter Tuning", MLSys 2020).
        grace_epochs: epochs that every trial may train.
        reduction_factor: at each rung one trial of so many goes on.
        name: of the space, where it has one.
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
        """Where all of it lies."""
        return self.base.out

    @property
    def mode(self) -> str:
        """``max`` or ``min``."""
        return OBJECTIVES[self.objective]

    def points(self) -> list[Point]:
        """The points of all trials, where they are known beforehand."""
        return fixed_points(self.space, self.search, seed=self.seed, count=self.num_trials)

    def trial_config(self, number: int, point: Point) -> PretrainConfig:
        """The configuration of a trial."""
        out = self.folder / TRIALS_FOLDER / f"{number:04d}"
        return replace(with_fields(self.base, point), out=out)


def make_sweep(
    *,
    base: PretrainConfig,
    space: Space,
    search: Search | None,
    num_trials: int | None,
    **rest: Any,  # noqa: ANN401
) -> Sweep:
    """Checks what was asked for, and makes a sweep of it. Reads nothing, writes nothing.

    Args:
        base: the pretraining of which fields vary.
        space: what varies.
        search: None: the grid where all of the space is lists for a grid, else random.
        num_trials: None: all points of a grid, 8 others.
        rest: other fields of `Sweep`.

    Raises:
        InputError: an empty space, a value that its field refuses, an objective that no trial
            would report, settings of the scheduler that cannot be.
    """
    gridded = all(getattr(domain, "kind", "") == "grid" for domain in space.values())
    search = search or ("grid" if gridded else "random")
    if num_trials is not None and num_trials < 1:
        raise InputError(f"--num-trials {num_trials} must be 1 or more")
    count = num_points(space, search, num_trials)
    if search == "optuna":
        load_optuna()
    sweep = Sweep(base=base, space=space, search=search, num_trials=count, **rest)
    if "out" in space:
        raise InputError("out cannot be swept: every trial has a folder of its own")
    if search != "grid":  # of which every point is looked at below
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
    configs = [sweep.trial_config(number, point) for number, point in enumerate(sweep.points())]
    for config in [base, *configs]:
        _check_objective(sweep, config)
    return sweep


def _check_objective(sweep: Sweep, config: PretrainConfig) -> None:
    if sweep.objective == "knn" and config.knn.val_shards is None:
        raise InputError(
            "no trial would report the kNN accuracy that it is judged by: give --knn.val-shards "
            "(labelled shards, other images than --shards)"
        )
    if sweep.objective == "heldout_loss" and config.heldout.shards is None:
        raise InputError(
            "no trial would report the held-out loss that it is judged by: give --heldout.shards"
        )
