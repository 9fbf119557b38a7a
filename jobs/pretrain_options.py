"""The command line of a pretraining, and the part that a sweep has in common with it."""

import argparse
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli import (
    HELP,
    HELP_ALL,
    TORCHRUN,
    UNNAMED,
    absolute_paths,
    from_root,
    parse,
    with_names,
)
from pipeline.core.errors import InputError, check
from pipeline.core.progress import say
from pipeline.storage.storage import fetched, is_url
from training.config import auto
from training.config.fields import new_name, with_fields
from training.config.file import CONFIG_FILE, read_config_file
from training.config.pretrain import PretrainConfig, with_place
from training.config.recipes import AUTO, RECIPES, find_recipe, with_method
from training.config.resources import Wanted
from training.methods.registry import METHODS
from training.methods.settings import MethodConfig

DEFAULT_RECIPE = "simclr_small"
FIRST = ("shards", "out")
"""Options whose values may stand first, without their names."""
PLACES = (
    *("shards", "selection", "out", "start_from", "extend", "replay.shards"),
    *("knn.val_shards", "knn.train_shards", "heldout.shards", "cache.folder"),
)
RECIPE_HELP = (
    f"auto (by number and size of the images and by the device), "
    f"{', '.join(name for name in RECIPES if not name.endswith('_baseline'))}, and all but auto "
    f"and debug with _baseline behind; by default {DEFAULT_RECIPE}, unless --config names a file."
)
METHOD_HELP = (
    f"{', '.join(METHODS)}: the method that is trained; by default that of the recipe. The options "
    "--method.* are the settings of this method."
)
BASE_HELP = (
    "All settings start from a recipe, from a file that a run or a sweep has left, or from the run "
    "that is extended (--extend RUN); any of them can be changed. The defaults shown here are "
    "those of what it starts from: give --recipe NAME or --config FILE beside --help to see others."
)
BRIEF = (
    *("recipe", "config", "method", "local", "base.shards", "base.out", "base.epochs"),
    *("base.batch_size", "base.seed", "base.fill", "base.num_workers", "base.knn.val_shards"),
)


METHOD_OF_OLD_NAME = {"moco": "moco_v2", "simclr": "simclr", "byol": "byol"}
"""By the first part of an option's earlier name (``moco.queue-size``)."""


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """Where a pretraining runs, and what its settings start from.

    Attributes:
        config: file that the settings start from: a run's config.json, or a sweep's best.json.
        local: run in this process, without Ray. So it is by default where RAY_ADDRESS names no
            cluster and there is one worker, and under torchrun, whose processes are the workers.
        ray: run on Ray, however few the workers are: only there does a run start again by itself
            after a crash.
        replay_step: 1 or more: only run this step of the run again, from the checkpoint before it,
            in this process and with PyTorch's anomaly detection.
    """

    recipe: Annotated[str | None, tyro.conf.arg(help=RECIPE_HELP)] = None
    config: Path | None = None
    method: Annotated[str | None, tyro.conf.arg(help=METHOD_HELP)] = None
    local: bool = False
    ray: bool = False
    replay_step: int | None = None
    base: Annotated[PretrainConfig, UNNAMED]

    def __post_init__(self) -> None:
        step = self.replay_step
        check(step is None or step >= 1, f"--replay-step {step} must be 1 or more")


@dataclass(frozen=True)
class _OfMethod:
    """Settings of a method."""

    method: MethodConfig


def read_command_line(arguments: Sequence[str]) -> tuple[str, bool | None, PretrainConfig]:
    """The recipe or file, `without_ray`, and the configuration, paths absolute."""
    name, options = read_options(arguments)
    return name, without_ray(local=options.local, on_ray=options.ray), options.base


def read_options(arguments: Sequence[str]) -> tuple[str, PretrainOptions]:
    """The recipe or file, and all options, paths absolute."""
    arguments = with_names(arguments, FIRST)
    name, base = find_base(arguments)
    if (url := base.bucket) is not None:
        here = {url: str(base.out), f"--out={url}": f"--out={base.out}"}
        arguments = [here.get(word, word) for word in arguments]
    options = parse(
        PretrainOptions,
        "jobs/pretrain.py",
        arguments,
        default=PretrainOptions(base=base),
        description="Pretrains a backbone by contrastive learning on precomputed shards. The same "
        f"command resumes a run that was broken off. {BASE_HELP}",
        brief=BRIEF,
        variants=method_options(name, base),
        positional=FIRST,
    )
    config = absolute(options.base)
    given = (word.partition("=")[0] for word in arguments if word.startswith("--"))
    config.check_given([option[2:].replace("-", "_") for option in given])
    for line in auto.reasons(_chosen(str(config.shards)), config) if name == AUTO else ():
        say(line)
    return name, replace(options, base=config)


def without_ray(*, local: bool, on_ray: bool) -> bool | None:
    """Whether a training was asked to run without Ray; None: as it fits (`runs_here`)."""
    check(not (local and on_ray), "--local and --ray: give one of them")
    if local or TORCHRUN in os.environ:
        return True
    return False if on_ray or os.environ.get("RAY_ADDRESS") else None


def runs_here(chosen: bool | None, num_workers: Wanted) -> bool:
    """Whether a training runs without Ray: as it was asked to, else where it has one worker.

    ``auto`` is one worker where there is at most one GPU; torch, which counts them, is imported.
    """
    if chosen is not None:
        return chosen
    if num_workers == "auto":
        return int(importlib.import_module("torch").cuda.device_count()) <= 1
    return num_workers == 1


def _auto(base: PretrainConfig, shards: str | None, out: str | None) -> PretrainConfig:
    """What the recipe auto chooses for shards, or what the run in a folder was begun with."""
    check(shards is not None, "--recipe auto looks at the images: name their --shards")
    begun = _file_of(out or "")
    if out is not None and begun.exists():
        return read_config_file(begun, shards=tyro.MISSING, out=tyro.MISSING)
    values = {name: value for name, (value, _) in _chosen(str(shards)).items()}
    return with_fields(base, values)


def _file_of(run: str) -> Path:
    return fetched(run if is_url(run) else from_root(run), CONFIG_FILE) / CONFIG_FILE


def _chosen(shards: str) -> auto.Chosen:
    return auto.choose(auto.look(shards if is_url(shards) else from_root(shards)))


def method_options(recipe: str, base: PretrainConfig) -> dict[str, _OfMethod]:
    """What ``--help-all`` shows besides: the options of the methods that are not chosen."""
    others = [name for name in METHODS if name != base.method.name]
    return {
        f"--method {name}": _OfMethod(with_method(recipe, base, name).method) for name in others
    }


def find_base(arguments: Sequence[str]) -> tuple[str, PretrainConfig]:
    """The recipe, file or run that a command line names, and the configuration it stands for.

    Fields that must still be given are ``tyro.MISSING``.

    Raises:
        InputError: an unknown recipe or method, a file that cannot be used, several given, or an
            option that has another name now.
    """
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in ("--recipe", "--config", "--extend", "--method", "--shards", "--out"):
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
    names = ("recipe", "config", "extend")
    given = [f"--{name}" for name in names if getattr(chosen, name) is not None]
    check(len(given) < 2, f"{' and '.join(given)} are both given: a run starts from one of them")
    if given in ([], ["--recipe"]):
        name = chosen.recipe or DEFAULT_RECIPE
        base = find_recipe(DEFAULT_RECIPE if name == AUTO else name)(tyro.MISSING, tyro.MISSING)
        if name == AUTO and HELP.isdisjoint([*arguments, HELP_ALL]):
            base = _auto(base, chosen.shards, chosen.out)
    else:
        name = str(from_root(chosen.config) if chosen.config else _file_of(chosen.extend))
        base = read_config_file(Path(name), shards=tyro.MISSING, out=tyro.MISSING)
    if chosen.out is not None and is_url(chosen.out):
        base = with_place(base, chosen.out)
    return name, base if chosen.method is None else with_method(name, base, chosen.method)


def absolute(config: PretrainConfig) -> PretrainConfig:
    """The configuration with absolute paths, also for a job that Ray runs in a copy."""
    init = config.encoder.init  # a path, a URL or a library's name of weights
    if init is not None and not is_url(init) and from_root(init).exists():
        config = with_fields(config, {"encoder.init": str(from_root(init))})
    return absolute_paths(config, *PLACES)
