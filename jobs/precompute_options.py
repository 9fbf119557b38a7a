"""The command line of precompute."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli import parse
from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig

DESCRIPTION = """From images to a shard set with saliency maps.

A run that is started again makes only what is missing. With --verify OUT in place of --data and
--out nothing is made: the shard set is read back, and the exit code is 1 if anything is wrong."""


BRIEF = (
    "verify",
    "base.data",
    "base.out",
    "base.labels",
    "base.append",
    "base.resize_short",
    "base.saliency",
    "base.masks",
)


@dataclass(frozen=True, kw_only=True)
class PrecomputeOptions:
    """From images to a shard set, or reading one back.

    Attributes:
        verify: Folder, s3:// or gs:// prefix of a shard set: everything that is wrong with it is
            named.
        processes: How many shards are read back at once, 0 or more; 0: one for each core.
    """

    base: Annotated[PrecomputeConfig, tyro.conf.arg(name="")]
    verify: str | Path | None = None
    processes: int = 0

    def __post_init__(self) -> None:
        if self.processes:
            raise InputError("--processes is for --verify; shards are made on all of Ray's cores")


def read_options() -> PrecomputeConfig:
    """The settings on the command line; raises as `jobs.cli.parse` does."""
    return parse(PrecomputeOptions, "jobs/precompute.py", description=DESCRIPTION, brief=BRIEF).base
