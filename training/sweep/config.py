"""The settings of a sweep, checked before anything is read or written."""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.core.errors import check
from training.config.fields import with_fields
from training.config.pretrain import PretrainConfig
from training.config.settings import check_least
from training.sweep.space import NamedSpace, Point, Scheduler, Space, grid_points

Search = Literal["grid", "random", "optuna"]
OBJECTIVES = {"knn": "max", "heldout_loss": "min"}
"""What trials are compared by, and which direction is better."""
NEEDED = {
    "knn": "--knn.val-shards (labelled shards, other images than --shards)",
    "heldout_loss": "--heldout.shards",
}
SWEEP_FILE = "sweep.json"
"""Describes a sweep in its folder (`training.sweep.preflight.describe`)."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How points are chosen, and how trials are compared and stopped.

    Attributes:
        search: grid, random or optuna (an extra); none: grid where the space has only grids, else
            random.
        num_trials: trials in all, 1 or more; none: every point of a grid, 8 of other spaces.
        search_seed: that the drawn points follow from, 0 or more.
        objective: what trials are compared by: knn (accuracy in percent, more is better) or
            heldout_loss (nats, less is better; see heldout.shards).
        scheduler: asha stops trials that fall behind (asynchronous successive halving); none lets
            all run to their end; by default asha, but none for data_scaling.
        grace_epochs: epochs that asha lets every trial train, 1 or more.
        reduction_factor: of so many trials asha lets one go on at each rung, 2 or more.
    """

    search: Search | None = None
    num_trials: int | None = None
    search_seed: int = 0
    objective: Literal["knn", "heldout_loss"] = "knn"
    scheduler: Scheduler | None = None
    grace_epochs: int = 1
    reduction_factor: int = 2

    def __post_init__(self) -> None:
        check_least(self, num_trials=1, search_seed=0, grace_epochs=1, reduction_factor=2)


@dataclass(frozen=True, kw_only=True)
class Sweep(SearchOptions):
    """All that decides a sweep's trials and their order.

    The trials' own seed is that of the base, whose ``out`` is the sweep's folder. ASHA: Li et al.,
    "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020.
    """

    base: PretrainConfig
    space: Space
    name: str = ""
    search: Search
    num_trials: int
    scheduler: Scheduler

    @property
    def folder(self) -> Path:
        """The folder of the sweep and its trials."""
        return self.base.out

    def points(self) -> list[Point]:
        """The points of all trials; empty if results decide them.

        A random one follows from the seed and the trial's number alone.
        """
        if self.search == "grid":
            return grid_points(self.space)
        seeds = [[self.search_seed, number] for number in range(self.num_trials)]
        drawing = map(np.random.default_rng, seeds if self.search == "random" else ())
        return [{name: one.draw(rng) for name, one in self.space.items()} for rng in drawing]

    def epochs_of(self, point: Point) -> int:
        """Epochs of the trial with these values."""
        return int(point.get("epochs", self.base.epochs))


def run_folder(sweep: Path, trial: int | str) -> Path:
    """The folder of a trial's run: that of its number, or of Tune's name for it."""
    return sweep / "trials" / f"{trial:0>4}"


def trial_config(base: PretrainConfig, trial: int | str, point: Point) -> PretrainConfig:
    """The base with a point's values, which its fields may refuse, and a folder of its own."""
    return replace(with_fields(base, point), out=run_folder(base.out, trial))


def make_sweep(varied: NamedSpace, options: SearchOptions, name: str = "") -> Sweep:
    """Check the settings of a sweep. Reads nothing, writes nothing.

    Raises:
        InputError: the space is empty or no grid, a field refuses a value, no trial would report
            the objective, optuna is not installed, or ASHA could stop no trial.
    """
    base, space = varied.base, varied.space
    nothing = "nothing to sweep: give --space NAME, --grid, --choice, --uniform or --log-uniform"
    check(bool(space), nothing)
    check("out" not in space, "out cannot be swept: every trial has a folder of its own")
    only_grids = all(domain.kind == "grid" for domain in space.values())
    search: Search = options.search or ("grid" if only_grids else "random")
    num_trials = options.num_trials or varied.num_trials
    if search == "grid":  # its points are checked one by one below
        count = len(grid_points(space))
        check(
            num_trials in (None, count),
            f"the grid has {count} points, and --num-trials says {num_trials}: leave it out, or "
            "choose --search random",
        )
    else:
        count = num_trials or 8
        # Each value alone: those of the other fields are not known before points are drawn.
        for field, domain in space.items():
            for value in domain.values:
                with_fields(base, {field: value})
    has_optuna = search != "optuna" or importlib.util.find_spec("optuna") is not None
    check(has_optuna, "--search optuna needs the extra optuna: pip install 'salmask[optuna]'")
    scheduler = options.scheduler or varied.scheduler
    chosen = {"search": search, "num_trials": count, "scheduler": scheduler}
    sweep = Sweep(**vars(options) | chosen, base=base, space=space, name=name)
    check(
        sweep.scheduler == "none" or sweep.grace_epochs <= base.epochs,
        f"--grace-epochs {sweep.grace_epochs} is more than the {base.epochs} epochs of a trial",
    )
    for config in [base, *(trial_config(base, n, point) for n, point in enumerate(sweep.points()))]:
        shards = config.knn.val_shards if sweep.objective == "knn" else config.heldout.shards
        wanted = f"no trial would report the objective {sweep.objective}: give"
        check(shards is not None, f"{wanted} {NEEDED[sweep.objective]}")
    return sweep
