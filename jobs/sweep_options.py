"""The command line of a sweep: what varies, how it is searched, how many trials run at once."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jobs.cli import parse
from jobs.pretrain_options import (
    BASE_HELP,
    METHOD_HELP,
    RECIPE_HELP,
    absolute,
    find_base,
    method_options,
)
from pipeline.core.errors import InputError
from training.config.pretrain import PretrainConfig
from training.sweep.config import Sweep, make_sweep
from training.sweep.space import Search, parse_space
from training.sweep.spaces import find_space

Words = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What varies, how it is searched, and how many trials run at once.

    Attributes:
        space: a named space: mask_ratio, mask_full or data_scaling; the four options below add
            fields to it, or put other values in place of its own.
        grid: NAME=VALUE,VALUE: every combination is tried. NAME is any field of the pretraining,
            with dots: masks.query_ratio=0.05:0.25,0.4 (a range has a colon; one number is both
            ends of it; masks.query_ratio.1 is its upper end). May be given several times.
        choice: NAME=VALUE,VALUE: each trial draws one.
        uniform: NAME=LOW..HIGH: each trial draws a number, a whole one where the field is whole.
        log_uniform: NAME=LOW..HIGH: the same, uniform in the logarithm.
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
        concurrent: trials at once, 1 or more; none: as many as the cluster holds.
        cpus_per_worker: cores of each worker, 1 or more; none: the cores divided by the workers.
        retry_failed: try failed trials again, from their last checkpoints.
        config: file that the settings of all trials start from: a run's config.json, or a sweep's
            best.json.
    """

    space: str | None = None
    grid: Words = ()
    choice: Words = ()
    uniform: Words = ()
    log_uniform: Words = ()
    search: Search | None = None
    num_trials: int | None = None
    search_seed: int = 0
    objective: Literal["knn", "heldout_loss"] = "knn"
    scheduler: Literal["asha", "none"] | None = None
    grace_epochs: int = 1
    reduction_factor: int = 2
    concurrent: int | None = None
    cpus_per_worker: int | None = None
    retry_failed: bool = False
    recipe: Annotated[str | None, tyro.conf.arg(help=RECIPE_HELP)] = None
    config: Path | None = None
    method: Annotated[str | None, tyro.conf.arg(help=METHOD_HELP)] = None
    base: Annotated[PretrainConfig, tyro.conf.arg(name="")]

    def __post_init__(self) -> None:
        least = {"concurrent": 1, "cpus_per_worker": 1, "num_trials": 1, "grace_epochs": 1}
        least |= {"search_seed": 0, "reduction_factor": 2}
        for name, limit in least.items():
            number = getattr(self, name)
            if number is not None and number < limit:
                raise InputError(f"--{name.replace('_', '-')} {number} must be {limit} or more")

    def sweep(self) -> Sweep:
        """The sweep that these options ask for; raises ``InputError`` where it cannot be."""
        named = find_space(self.space, absolute(self.base))
        given = parse_space(
            grid=self.grid, choice=self.choice, uniform=self.uniform, log_uniform=self.log_uniform
        )
        return make_sweep(
            base=named.base,
            space=named.space | given,
            search=self.search,
            num_trials=self.num_trials or named.num_trials,
            seed=self.search_seed,
            objective=self.objective,
            scheduler=self.scheduler or named.scheduler,
            grace_epochs=self.grace_epochs,
            reduction_factor=self.reduction_factor,
            name=self.space or "",
        )


def read_options(arguments: list[str], description: str) -> SweepOptions:
    """Reads the command line of ``jobs/sweep.py``.

    A sweep checks its trials after every epoch, unless told otherwise.

    Args:
        arguments: words.
        description: of the job, for its help.

    Raises:
        InputError: as `jobs.cli.parse` does.
    """
    name, base = find_base(arguments)
    base = dataclasses.replace(base, knn=dataclasses.replace(base.knn, every_epochs=1))
    return parse(
        SweepOptions,
        "jobs/sweep.py",
        arguments,
        default=SweepOptions(base=base),
        description=f"{description} The same command goes on with a sweep that was broken off, "
        f"without repeating what has ended. {BASE_HELP}",
        brief=(
            "space",
            "grid",
            "num_trials",
            "objective",
            "scheduler",
            "concurrent",
            "recipe",
            "config",
            *(f"base.{field}" for field in ("shards", "out", "epochs", "knn.val_shards")),
        ),
        variants=method_options(name, base),
    )
