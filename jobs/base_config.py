"""What a pretraining's command line starts from: a recipe, or a file; and where its paths begin."""

import argparse
import dataclasses
from pathlib import Path

import tyro

from jobs.cli import from_root
from pipeline.errors import InputError
from training.config import PretrainConfig
from training.config_file import read_config_file
from training.recipes import RECIPES, find_recipe

DEFAULT_RECIPE = "moco_v2_small"
BASE_HELP = (
    f"Starts from --recipe NAME ({', '.join(RECIPES)}; default {DEFAULT_RECIPE}), or from --config "
    "FILE (a run's config.json or a sweep's best.json), of which any field can be changed."
)


def find_base(arguments: list[str]) -> tuple[str, PretrainConfig, list[str]]:
    """Takes ``--recipe`` and ``--config`` off a command line.

    Returns:
        The recipe's or the file's name, the configuration that it stands for, and the other
        words. Fields that must still be given are ``tyro.MISSING``.

    Raises:
        InputError: an unknown recipe, a file that cannot be used, or both given.
    """
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--recipe")
    words.add_argument("--config", type=Path)
    chosen, rest = words.parse_known_args(arguments)
    if chosen.config is None:
        name = chosen.recipe or DEFAULT_RECIPE
        return name, find_recipe(name)(tyro.MISSING, tyro.MISSING), rest
    if chosen.recipe is not None:
        raise InputError("--recipe and --config are both given: a run starts from one of them")
    path = from_root(chosen.config)
    return str(path), read_config_file(path, shards=tyro.MISSING, out=tyro.MISSING), rest


def absolute(config: PretrainConfig) -> PretrainConfig:
    """The configuration with absolute paths, also for a job that Ray runs in a copy."""

    def from_here(path: Path | None) -> Path | None:
        return path and from_root(path)

    return dataclasses.replace(
        config,
        shards=from_root(config.shards),
        out=from_root(config.out),
        knn=dataclasses.replace(
            config.knn,
            val_shards=from_here(config.knn.val_shards),
            train_shards=from_here(config.knn.train_shards),
        ),
        heldout=dataclasses.replace(config.heldout, shards=from_here(config.heldout.shards)),
    )
