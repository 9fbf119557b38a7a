"""What a pretraining's command line starts from: a recipe, or a file; and where its paths begin."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from jobs.cli import from_root, place_from_root
from pipeline.core.errors import InputError
from pipeline.storage.storage import Location
from training.config.fields import new_name, with_fields
from training.config.file import read_config_file
from training.config.pretrain import PretrainConfig
from training.config.recipes import RECIPES, find_recipe, with_method
from training.methods.registry import METHODS
from training.methods.settings import MethodConfig

DEFAULT_RECIPE = "simclr_small"
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
    "shards",
    "out",
    "epochs",
    "batch_size",
    "seed",
    "fill",
    "num_workers",
    "knn.val_shards",
)
"""Fields that the short help shows."""


@dataclasses.dataclass(frozen=True)
class _OfMethod:
    """Settings of a method."""

    method: MethodConfig


def method_options(recipe: str, base: PretrainConfig) -> dict[str, _OfMethod]:
    """What ``--help-all`` shows besides: the options of the methods that are not chosen."""
    others = [name for name in METHODS if name != base.method.name]
    return {
        f"--method {name}": _OfMethod(with_method(recipe, base, name).method) for name in others
    }


def find_base(arguments: Sequence[str]) -> tuple[str, PretrainConfig]:
    """Looks for ``--recipe``, ``--config`` and ``--method`` on a command line.

    Returns:
        The recipe's or the file's name, and the configuration that it stands for; fields that must
        still be given are ``tyro.MISSING``.

    Raises:
        InputError: an unknown recipe or method, a file that cannot be used, both given, or an
            option that has another name now.
    """
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    words.add_argument("--recipe")
    words.add_argument("--config", type=Path)
    words.add_argument("--method")
    try:
        chosen, _ = words.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from error
    _check_names(arguments)
    if chosen.config is None:
        name = chosen.recipe or DEFAULT_RECIPE
        base = find_recipe(name)(tyro.MISSING, tyro.MISSING)
        return name, base if chosen.method is None else with_method(name, base, chosen.method)
    if chosen.recipe is not None:
        raise InputError("--recipe and --config are both given: a run starts from one of them")
    path = from_root(chosen.config)
    base = read_config_file(path, shards=tyro.MISSING, out=tyro.MISSING)
    if chosen.method is not None:
        base = with_fields(base, {"method": chosen.method})
    return str(path), base


def _check_names(arguments: Sequence[str]) -> None:
    """Raises ``InputError`` for an option of an earlier version; names what it is called now."""
    for word in arguments:
        option = word.partition("=")[0]
        now = new_name(option.removeprefix("--").replace("-", "_"))
        if option.startswith("--") and now is not None:
            raise InputError(f"{option} is called --{now.replace('_', '-')} now")


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
