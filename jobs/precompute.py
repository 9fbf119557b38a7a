"""Make a shard set with saliency maps from images of any source, or read one back (--verify)."""

import sys
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

from jobs.cli import UNNAMED, absolute_paths, conclude, main, parse
from jobs.removal import remove
from pipeline.core.errors import InputError
from pipeline.core.progress import numbered, say
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.local_job import builder
from pipeline.precompute.run import run_precompute
from pipeline.precompute.verify import VerifyConfig, verify_set

BRIEF = ("data", "out", "labels", "append", "resize_short", "saliency", "masks")


@dataclass(frozen=True, kw_only=True)
class PrecomputeOptions:
    """From images to a shard set with saliency maps.

    A run that is started again makes only what is missing. With --verify OUT in place of --data
    and --out nothing is made: the shard set is read back, and the exit code is 1 if anything is
    wrong. With --remove LIST in place of --data images are taken out of the set --out (--remove -
    --help says more).

    Attributes:
        verify: Folder, s3:// or gs:// prefix of a shard set: everything that is wrong with it is
            named.
        local: Make the shards in processes of this machine, without Ray. So it is by default where
            RAY_ADDRESS names no cluster and at most 1,000 images are left to be made.
        ray: Make them on Ray, however few they are.
        processes: How many shards are read back at once, 0 or more; 0: one for each core.
    """

    base: Annotated[PrecomputeConfig, UNNAMED]
    verify: str | Path | None = None
    local: bool = False
    ray: bool = False
    processes: int = 0

    def __post_init__(self) -> None:
        if self.processes:
            raise InputError("--processes is for --verify; shards are made on all cores")
        if self.local and self.ray:
            raise InputError("--local and --ray: give one of them")


def run() -> int:
    """Parse the command line and precompute, or verify."""
    options = {word.split("=")[0] for word in sys.argv[1:]}
    if "--remove" in options:
        return remove()
    if "--verify" in options:
        return verify(absolute_paths(parse(VerifyConfig, "jobs/precompute.py"), "verify"))
    brief = ("verify", "local", *(f"base.{name}" for name in BRIEF))
    given = parse(PrecomputeOptions, "jobs/precompute.py", brief=brief, positional=("data", "out"))
    config = absolute_paths(given.base, "data", "out", "masks")
    info = run_precompute(config, builder(local=given.local, on_ray=given.ray))
    counts = {"images": info.num_images, "shards": len(info.shards), "rejected": info.num_rejected}
    digests = {"classes": list(info.class_names), "plan_digest": info.plan_digest}
    out = str(config.out)
    conclude(
        {"out": config.out, **counts, **digests},
        f"results    {numbered(info.num_images, 'image')} in "
        f"{numbered(len(info.shards), 'shard')}: {out} "
        f"(next: jobs/pretrain.py --shards {quote(out)} --out RUN; jobs/report.py shows them)",
    )
    return 0


def verify(config: VerifyConfig) -> int:
    """Name what is wrong with a shard set; returns the exit code, 1 where anything is."""
    place = str(config.verify)
    say(f"reading the shard set {place} back")
    problems = verify_set(config.verify, config.processes)
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
    found = f"{len(problems)} problems" if problems else "nothing is wrong"
    conclude({"out": config.verify, "problems": problems}, f"results    {place}: {found}")
    return 1 if problems else 0


if __name__ == "__main__":
    main(run)
