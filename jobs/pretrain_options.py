"""The command line of a pretraining: what its settings start from, and where it runs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.base_config import (
    BASE_HELP,
    BRIEF,
    METHOD_HELP,
    RECIPE_HELP,
    absolute,
    find_base,
    method_options,
)
from jobs.cli import parse
from training.config.pretrain import PretrainConfig

DESCRIPTION = (
    "Pretrains a backbone by contrastive learning on precomputed shards. The same command resumes "
    "a run that was broken off."
)


TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Set by torchrun for its processes."""


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """Where a pretraining runs, and what its settings start from.

    Attributes:
        config: file that the settings start from: a run's config.json, or a sweep's best.json.
        local: run in this process, without Ray; so it is under torchrun, whose processes are the
            workers.
    """

    recipe: Annotated[str | None, tyro.conf.arg(help=RECIPE_HELP)] = None
    config: Path | None = None
    method: Annotated[str | None, tyro.conf.arg(help=METHOD_HELP)] = None
    local: bool = False
    base: Annotated[PretrainConfig, tyro.conf.arg(name="")]


def read_command_line(arguments: Sequence[str]) -> tuple[str, bool, PretrainConfig]:
    """Reads recipe, place and configuration from the command line.

    Returns:
        What the fields start from, whether to run without Ray, and the configuration, paths
        absolute.
    """
    name, base = find_base(arguments)
    options = parse(
        PretrainOptions,
        "jobs/pretrain.py",
        arguments,
        default=PretrainOptions(base=base),
        description=f"{DESCRIPTION} {BASE_HELP}",
        brief=("recipe", "config", "method", "local", *(f"base.{field}" for field in BRIEF)),
        variants=method_options(name, base),
    )
    return name, options.local or TORCHRUN in os.environ, absolute(options.base)
