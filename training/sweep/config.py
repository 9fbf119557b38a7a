"""The settings of a sweep, checked before anything is read or written."""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import InputError
from training.config.fields import with_fields
from training.config.pretrain import PretrainConfig
from training.sweep.space import Point, Search, Space, check_values, grid_points, random_point

Scheduler = Literal["asha", "none"]
OBJECTIVES = {"knn": "max", "heldout_loss": "min"}
"""What trials are compared by, and which direction is better."""
NEEDED = {
    "knn": "--knn.val-shards (labelled shards, other images than --shards)",
    "heldout_loss": "--heldout.shards",
}
TRIALS_FOLDER = "trials"
DEFAULT_TRIALS = 8


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
        grace_epochs: epochs that every trial may train, 1 or more.
        reduction_factor: one trial of this many continues at each rung, 2 or more.
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
        """The points of all trials; empty if results decide them."""
        if self.search == "grid":
            return grid_points(self.space)
        numbers = range(self.num_trials if self.search == "random" else 0)
        return [random_point(self.space, seed=self.seed, number=number) for number in numbers]

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
    """Check the settings of a sweep. Reads nothing, writes nothing.

    Args:
        base: the pretraining whose fields vary.
        space: what varies.
        search: None means a grid if the space has only grids, else random.
        num_trials: 1 or more; None means all points of a grid, else `DEFAULT_TRIALS`.
        rest: other fields of `Sweep`.

    Raises:
        InputError: the space is empty or no grid, a field refuses a value, no trial would report
            the objective, optuna is not installed, or ASHA could stop no trial.
    """
    if not space:
        raise InputError(
            "nothing to sweep: give --space NAME, --grid, --choice, --uniform or --log-uniform"
        )
    if "out" in space:
        raise InputError("out cannot be swept: every trial has a folder of its own")
    only_grids = all(domain.kind == "grid" for domain in space.values())
    search = search or ("grid" if only_grids else "random")
    if search == "grid":  # its points are checked one by one below
        count = len(grid_points(space))
        if num_trials not in (None, count):
            raise InputError(
                f"the grid has {count} points, and --num-trials says {num_trials}: leave it out, "
                "or choose --search random"
            )
    else:
        check_values(space, base)
        count = num_trials or DEFAULT_TRIALS
    if search == "optuna" and importlib.util.find_spec("optuna") is None:
        raise InputError("--search optuna needs the extra optuna: pip install 'salmask[optuna]'")
    sweep = Sweep(base=base, space=space, search=search, num_trials=count, **rest)
    if sweep.scheduler == "asha" and sweep.grace_epochs > base.epochs:
        raise InputError(
            f"--grace-epochs {sweep.grace_epochs} is more than the {base.epochs} epochs of a trial"
        )
    for config in [base, *(sweep.trial_config(n, point) for n, point in enumerate(sweep.points()))]:
        shards = config.knn.val_shards if sweep.objective == "knn" else config.heldout.shards
        if shards is None:
            raise InputError(
                f"no trial would report the objective {sweep.objective}: give "
                f"{NEEDED[sweep.objective]}"
            )
    return sweep
