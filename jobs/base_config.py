"""What a pretraining's command line starts from: a recipe, or a file; and where its paths begin."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from jobs.cli import from_root, place_from_root
from pipeline.errors import InputError
from pipeline.stores.storage import Location
from training.config import PretrainConfig
from training.config_file import read_config_file
from training.recipes import RECIPES, find_recipe

DEFAULT_RECIPE = "moco_v2_small"
RECIPE_HELP = f"{', '.join(RECIPES)}; by default {DEFAULT_RECIPE}, unless --config names a file."
BASE_HELP = (
    "All settings start from a recipe, or from a file that a run or a sweep has left; any of them "
    "can be changed. The defaults shown here are those of what it starts from: give --recipe NAME "
    "or --config FILE beside --help to see others."
)


def find_base(arguments: Sequence[str]) -> tuple[str, PretrainConfig]:
    """Looks for ``--recipe`` and ``--config`` on a command line.

    Returns:
        The recipe's or the file's name, and the configuration that it stands for; fields that must
        still be given are ``tyro.MISSING``.

    Raises:
        InputError: an unknown recipe, a file that cannot be used, or both given.
    """
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    words.add_argument("--recipe")
    words.add_argument("--config", type=Path)
    try:
        chosen, _ = words.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from error
    if chosen.config is None:
        name = chosen.recipe or DEFAULT_RECIPE
        return name, find_recipe(name)(tyro.MISSING, tyro.MISSING)
    if chosen.recipe is not None:
        raise InputError("--recipe and --config are both given: a run starts from one of them")
    path = from_root(chosen.config)
    return str(path), read_config_file(path, shards=tyro.MISSING, out=tyro.MISSING)


def absolute(config: PretrainConfig) -> PretrainConfig:
    """The configuration with absolute paths, also for a job that Ray runs in a copy."""

    def from_here(place: Location | None) -> Location | None:
        return place and place_from_root(place)

    return dataclasses.replace(
        config,
        shards=place_from_root(config.shards),
        out=from_root(config.out),
        knn=dataclasses.replace(
            config.knn,
            val_shards=from_here(config.knn.val_shards),
            train_shards=from_here(config.knn.train_shards),
        ),
        heldout=dataclasses.replace(config.heldout, shards=from_here(config.heldout.shards)),
    )
