"""The command line of a stream: its sets, and the settings of every stage."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli import UNNAMED, absolute_paths, parse
from jobs.pretrain_options import (
    BASE_HELP,
    METHOD_HELP,
    RECIPE_HELP,
    absolute,
    find_base,
    method_options,
    without_ray,
)
from pipeline.core.errors import check
from pipeline.storage.storage import Location
from training.config.pretrain import PretrainConfig
from training.stream.config import Stream

BRIEF = (
    *("stages", "val", "joint", "recipe", "config", "method", "local", "base.out", "base.epochs"),
    "base.replay.share",
)
OF_STAGES = Path("STAGES")


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """The sets of a stream, and where it runs.

    Attributes:
        stages: shards of each stage, in the order in which they arrive: the option --shards of each
            stage's run.
        val: for each stage shards of other images of its kind, with its classes if it has some, by
            which it is measured. Without them a fixed fifth of a labelled set is classified by the
            rest, and a set without labels is measured on its own images.
        joint: train one more run on all sets at once, for as many steps, to compare with.
        local: run in this process, without Ray. So it is by default where RAY_ADDRESS names no
            cluster and there is one worker, and under torchrun, whose processes are the workers.
        ray: run on Ray, however few the workers are: only there does a run start again by itself
            after a crash.
        config: file that the settings start from: a run's config.json, or a sweep's best.json.
    """

    stages: tuple[Location, ...] = ()
    val: tuple[Location, ...] = ()
    joint: bool = False
    recipe: Annotated[str | None, tyro.conf.arg(help=RECIPE_HELP)] = None
    config: Path | None = None
    method: Annotated[str | None, tyro.conf.arg(help=METHOD_HELP)] = None
    local: bool = False
    ray: bool = False
    base: Annotated[PretrainConfig, UNNAMED]


def read_options(arguments: list[str], description: str) -> tuple[Stream, bool | None]:
    """The stream of a command line, paths absolute, and `without_ray`."""
    name, base = find_base(arguments)
    check(base.bucket is None, f"--out {base.place} is in a bucket: wanted a local folder")
    base = replace(base, shards=OF_STAGES)
    options = parse(
        StreamOptions,
        "jobs/stream.py",
        arguments,
        default=StreamOptions(base=base),
        description=f"{description} The same command goes on with a stream that was broken off, "
        f"and with further --stages it adds to one that has finished. {BASE_HELP}",
        brief=BRIEF,
        variants=method_options(name, base),
    )
    given = options.base.shards
    check(given == OF_STAGES, f"--shards {given}: name the sets of a stream with --stages")
    fields = {"stages": options.stages, "val": options.val, "joint": options.joint}
    stream = Stream(**fields, base=absolute(options.base))  # type: ignore[arg-type]
    chosen = without_ray(local=options.local, on_ray=options.ray)
    return absolute_paths(stream, "stages", "val"), chosen
