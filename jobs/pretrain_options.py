"""The command line of a pretraining, and the part that a sweep has in common with it."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli import TORCHRUN, UNNAMED, absolute_paths, from_root, parse
from pipeline.core.errors import InputError
from training.config.fields import new_name
from training.config.file import read_config_file
from training.config.pretrain import PretrainConfig
from training.config.recipes import RECIPES, find_recipe, with_method
from training.methods.registry import METHODS
from training.methods.settings import MethodConfig

DEFAULT_RECIPE = "simclr_small"
PLACES = (
    *("shards", "selection", "out", "start_from", "replay.shards"),
    *("knn.val_shards", "knn.train_shards", "heldout.shards"),
)
RECIPE_HELP = (
    f"{', '.join(name for name in RECIPES if not name.endswith('_baseline'))}, and all but debug "
    f"with _baseline behind; by default {DEFAULT_RECIPE}, unless --config names a file."
)
METHOD_HELP = (
    f"{', '.join(METHODS)}: the method that is trained; by default that of the recipe. The options "
    "--method.* are the settings of this method."
)
BASE_HELP = (
    "All settings start from a recipe, or from a file that a run or a sweep has left; any of them "
    "can be changed. The defaults shown here are those of what it starts from: give --recipe NAME "
    "or --config FILE beside --help to see others."
)
BRIEF = (
    *("recipe", "config", "method", "local", "base.shards", "base.out", "base.epochs"),
    *("base.batch_size", "base.seed", "base.fill", "base.num_workers", "base.knn.val_shards"),
)


METHOD_OF_OLD_NAME = {"moco": "moco_v2", "simclr": "simclr", "byol": "byol"}
"""By the first part of an option's earlier name (`--moco.queue-size`)."""


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
    base: Annotated[PretrainConfig, UNNAMED]


@dataclass(frozen=True)
class _OfMethod:
    """Settings of a method."""

    method: MethodConfig


def read_command_line(arguments: Sequence[str]) -> tuple[str, bool, PretrainConfig]:
    """The recipe or file, whether to run without Ray, and the configuration, paths absolute."""
    name, base = find_base(arguments)
    options = parse(
        PretrainOptions,
        "jobs/pretrain.py",
        arguments,
        default=PretrainOptions(base=base),
        description="Pretrains a backbone by contrastive learning on precomputed shards. The same "
        f"command resumes a run that was broken off. {BASE_HELP}",
        brief=BRIEF,
        variants=method_options(name, base),
        positional=("shards", "out"),
    )
    return name, options.local or TORCHRUN in os.environ, absolute(options.base)


def method_options(recipe: str, base: PretrainConfig) -> dict[str, _OfMethod]:
    """What ``--help-all`` shows besides: the options of the methods that are not chosen."""
    others = [name for name in METHODS if name != base.method.name]
    return {
        f"--method {name}": _OfMethod(with_method(recipe, base, name).method) for name in others
    }


def find_base(arguments: Sequence[str]) -> tuple[str, PretrainConfig]:
    """The recipe or file that a command line names, and the configuration that it stands for.

    Fields that must still be given are ``tyro.MISSING``.

    Raises:
        InputError: an unknown recipe or method, a file that cannot be used, both given, or an
            option that has another name now.
    """
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in ("--recipe", "--config", "--method"):
        words.add_argument(option)
    try:
        chosen, _ = words.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from error
    for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
        if (now := new_name(option)) != option:
            method = METHOD_OF_OLD_NAME.get(option[2:].partition(".")[0])
            with_it = f", with --method {method}" if method else ""
            raise InputError(f"{option} is called {now} now{with_it}")
    if chosen.config is None:
        name = chosen.recipe or DEFAULT_RECIPE
        base = find_recipe(name)(tyro.MISSING, tyro.MISSING)
    elif chosen.recipe is None:
        name = str(from_root(chosen.config))
        base = read_config_file(Path(name), shards=tyro.MISSING, out=tyro.MISSING)
    else:
        raise InputError("--recipe and --config are both given: a run starts from one of them")
    return name, base if chosen.method is None else with_method(name, base, chosen.method)


def absolute(config: PretrainConfig) -> PretrainConfig:
    """The configuration with absolute paths, also for a job that Ray runs in a copy."""
    return absolute_paths(config, *PLACES)
