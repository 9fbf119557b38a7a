"""Make a shard set with saliency maps from images of any source, or read one back (--verify)."""

import importlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from jobs.cli import conclude, from_root, main, parse
from jobs.options import Groups
from pipeline.core.errors import InputError
from pipeline.core.progress import say
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.verify import VerifyConfig, verify_set
from pipeline.shardset.manifest import DatasetInfo
from pipeline.storage.storage import is_url

VERIFY = "--verify"
EXIT_PROBLEMS = 1
DESCRIPTION = """From images to a shard set with saliency maps.

A run that is started again makes only what is missing. With --verify OUT in place of --data and
--out nothing is made: the shard set is read back, and the exit code is 1 if anything is wrong."""


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

    groups: ClassVar[Groups] = {
        "verify": ("Reading a shard set back, in place of making one.", ("verify", "processes"))
    }

    def __post_init__(self) -> None:
        if self.processes:
            raise InputError("--processes is for --verify; shards are made on all of Ray's cores")


def run() -> int:
    """Parse the command line and precompute, or verify."""
    if any(word.split("=")[0] == VERIFY for word in sys.argv[1:]):
        return verify(parse(VerifyConfig, "jobs/precompute.py"))
    config = parse(PrecomputeOptions, "jobs/precompute.py", description=DESCRIPTION).base
    data, out, masks = (_place(place) for place in (config.data, config.out, config.masks))
    # Ray takes seconds to import: only where it is used.
    job = importlib.import_module("pipeline.precompute.ray_job")
    info: DatasetInfo = job.precompute(replace(config, data=data, out=out, masks=masks))
    counts = {"images": info.num_images, "shards": len(info.shards), "rejected": info.num_rejected}
    conclude(
        {"out": out, **counts, "classes": list(info.class_names), "plan_digest": info.plan_digest},
        f"results    {info.num_images} images in {len(info.shards)} shards: {_shown(out)} "
        f"(next: jobs/pretrain.py --shards {_shown(out)} --out RUN; jobs/report.py shows them)",
    )
    return 0


def verify(config: VerifyConfig) -> int:
    """Name what is wrong with a shard set; returns the exit code, 1 where anything is."""
    place = _place(config.verify)
    say(f"reading the shard set {_shown(place)} back")
    problems = verify_set(place, config.processes)
    for problem in problems:
        print(problem, file=sys.stderr)
    found = f"{len(problems)} problems" if problems else "nothing is wrong"
    conclude({"out": place, "problems": problems}, f"results    {_shown(place)}: {found}")
    return EXIT_PROBLEMS if problems else 0


def _place(given: str | Path) -> str:
    """A place as every process sees it; none stays none."""
    return str(given) if not str(given) or is_url(given) else str(from_root(Path(given)))


def _shown(place: str) -> str:
    """A place without its connection's options, which may hold a key."""
    return place.partition("?")[0] if is_url(place) else place


if __name__ == "__main__":
    main(run)
