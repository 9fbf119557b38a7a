"""The command line of a sweep: what varies, how it is searched, how many trials run at once."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli import UNNAMED, parse
from jobs.pretrain_options import (
    BASE_HELP,
    METHOD_HELP,
    RECIPE_HELP,
    absolute,
    find_base,
    method_options,
)
from pipeline.core.errors import check
from training.config.pretrain import PretrainConfig
from training.config.settings import check_least
from training.sweep.config import SearchOptions, Sweep, make_sweep
from training.sweep.space import find_space, parse_space

Words = tyro.conf.UseAppendAction[tuple[str, ...]]
BRIEF = (
    *("space", "grid", "concurrent", "recipe", "config"),
    *(f"options.{one}" for one in ("num_trials", "objective", "scheduler")),
    *(f"base.{one}" for one in ("shards", "out", "epochs", "knn.val_shards")),
)


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What varies, how it is searched, and how many trials run at once.

    Attributes:
        space: a named one, mask_ratio, mask_full, exchange, crops or data_scaling; the four options
            below add to it or replace its values.
        grid: NAME=VALUE,VALUE: every combination is tried. NAME is any field of the pretraining,
            with dots: masks.query_ratio=0.05:0.25,0.4 (a range has a colon; one number is both
            ends of it; masks.query_ratio.1 is its upper end). May be given several times.
        choice: NAME=VALUE,VALUE: each trial draws one.
        uniform: NAME=LOW..HIGH: each trial draws a number, a whole one where the field is whole.
        log_uniform: NAME=LOW..HIGH: the same, uniform in the logarithm.
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
    options: Annotated[SearchOptions, UNNAMED] = field(default_factory=SearchOptions)
    concurrent: int | None = None
    cpus_per_worker: int | None = None
    retry_failed: bool = False
    recipe: Annotated[str | None, tyro.conf.arg(help=RECIPE_HELP)] = None
    config: Path | None = None
    method: Annotated[str | None, tyro.conf.arg(help=METHOD_HELP)] = None
    base: Annotated[PretrainConfig, UNNAMED]

    def __post_init__(self) -> None:
        check_least(self, "--", concurrent=1, cpus_per_worker=1)

    def sweep(self) -> Sweep:
        """The sweep that these options ask for; raises ``InputError`` where it cannot be."""
        given = parse_space(
            grid=self.grid, choice=self.choice, uniform=self.uniform, log_uniform=self.log_uniform
        )
        named = find_space(self.space, absolute(self.base))
        named = dataclasses.replace(named, space=named.space | given)
        return make_sweep(named, self.options, name=self.space or "")


def read_options(arguments: list[str], description: str) -> SweepOptions:
    """Reads the command line of ``jobs/sweep.py``; raises as `jobs.cli.parse` does.

    A sweep checks its trials after every epoch, unless told otherwise.
    """
    name, base = find_base(arguments)
    check(base.bucket is None, f"--out {base.place} is in a bucket: wanted a local folder")
    base = dataclasses.replace(base, knn=dataclasses.replace(base.knn, every_epochs=1))
    return parse(
        SweepOptions,
        "jobs/sweep.py",
        arguments,
        default=SweepOptions(base=base),
        description=f"{description} The same command goes on with a sweep that was broken off, "
        f"without repeating what has ended. {BASE_HELP}",
        brief=BRIEF,
        variants=method_options(name, base),
        positional=("shards", "out"),
    )
