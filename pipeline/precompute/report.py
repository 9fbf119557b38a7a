"""What precompute tells: progress while it runs, figures and reasons at the end."""

import platform
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import PIL

from pipeline.core.progress import Standing, say
from pipeline.precompute.begin import Work
from pipeline.precompute.build import BuiltShard
from pipeline.shardset.manifest import DatasetInfo, read_rejected
from pipeline.shardset.schema import REJECTED_FOLDER
from pipeline.storage.storage import Store, is_url


def started_work(num_images: int) -> Standing:
    """How far precompute is before its first shard."""
    return Standing(work="making shards", done=0, total=num_images, unit="images")


def with_shard(standing: Standing, shard: BuiltShard) -> Standing:
    """How far it is with one more shard; one that was whole took no time."""
    count = shard.info.num_images + shard.num_rejected
    given = 0 if shard.rebuilt else count
    return replace(standing, done=standing.done + count, given=standing.given + given)


def first_reason(out: Store, built: list[BuiltShard]) -> str:
    """The first image on the rejected lists and why it is there."""
    for shard in built:
        if shard.num_rejected:
            first = read_rejected(out, shard.info.name).slice(0, 1).to_pylist()[0]
            return f"{first['source']}: {first['reason']}"
    return "no reason is listed"


def say_what_is_there(data: str | Path, out: Store, saliency: str, work: Work) -> None:
    """One line before the work: what, of what, where to, how much."""
    if work.class_names:
        labels = f"{len(work.class_names)} classes"
    else:
        why = f": {work.unlabelled_because}" if work.unlabelled_because else ""
        labels = f"no labels{why}"
    place = str(data).partition("?")[0] if is_url(data) else data
    known = f"{work.num_known} images that the set has already, and " if work.num_known else ""
    say(
        f"{place}: {known}{work.num_images} images ({labels}), "
        f"{work.num_ignored} other files ignored; {work.num_shards} shards with saliency "
        f"({saliency}) go to {out.url}"
    )


def say_what_was_done(
    out: Store, info: DatasetInfo, built: list[BuiltShard], num_ignored: int, seconds: float
) -> None:
    """The figures after it."""
    rebuilt = [shard for shard in built if shard.rebuilt]
    num_read = sum(shard.info.num_images + shard.num_rejected for shard in rebuilt)
    where = f" (reasons in {out.where(REJECTED_FOLDER)})" if info.num_rejected else ""
    say(f"{info.num_images} rows in {len(info.shards)} shards at {out.url}")
    say(f"{info.num_rejected} rejected{where}, {num_ignored} other files ignored")
    rate = num_read / seconds if seconds else 0.0
    say(
        f"{len(rebuilt)} shards made, {len(built) - len(rebuilt)} were whole and skipped; "
        f"{num_read} images read in {seconds:.1f} s, {rate:.0f} images/s"
    )


def library_versions() -> dict[str, str]:
    """Of what decides bytes: decoders, encoders and arithmetic."""
    return {
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
