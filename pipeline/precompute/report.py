"""What precompute tells: progress while it runs, figures and reasons at the end."""

import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import PIL

from pipeline.manifest import DatasetInfo, read_rejected
from pipeline.precompute.begin import Work
from pipeline.precompute.build import BuiltShard
from pipeline.schema import REJECTED_FOLDER
from pipeline.stores.storage import Store, is_url

SECONDS_BETWEEN_LINES = 5.0


@dataclass
class Progress:
    """Prints a line every few seconds: how far, how fast, how long yet."""

    num_images: int
    started: float = field(default_factory=time.monotonic)
    last_line: float = field(default_factory=time.monotonic)
    num_done: int = 0
    num_skipped: int = 0

    def add(self, shard: BuiltShard) -> None:
        """Count a shard that is there now, and print where it is time to."""
        count = shard.info.num_images + shard.num_rejected
        self.num_done += count
        self.num_skipped += 0 if shard.rebuilt else count
        now = time.monotonic()
        if now - self.last_line < SECONDS_BETWEEN_LINES:
            return
        self.last_line = now
        # whole shards are skipped in no time: they say nothing of the speed
        num_made = self.num_done - self.num_skipped
        line = f"{self.num_done}/{self.num_images} images"
        if num_made:
            rate = num_made / (now - self.started)
            left = (self.num_images - self.num_done) / rate
            line += f", {rate:.0f} images/s, {left // 60:.0f} min {left % 60:02.0f} s left"
        print(line, flush=True)


def first_reason(out: Store, built: list[BuiltShard]) -> str:
    """The first image on the rejected lists and why it is there."""
    for shard in built:
        if shard.num_rejected:
            first = read_rejected(out, shard.info.name).slice(0, 1).to_pylist()[0]
            return f"{first['source']}: {first['reason']}"
    return "no reason is listed"


def say_what_is_there(data: str | Path, work: Work) -> None:
    """One line before the work."""
    if work.class_names:
        labels = f"{len(work.class_names)} classes"
    else:
        why = f": {work.unlabelled_because}" if work.unlabelled_because else ""
        labels = f"no labels{why}"
    place = str(data).partition("?")[0] if is_url(data) else data
    known = f"{work.num_known} images that the set has already, and " if work.num_known else ""
    print(
        f"{place}: {known}{work.num_images} images ({labels}), "
        f"{work.num_ignored} other files ignored; {work.num_shards} shards",
        flush=True,
    )


def say_what_was_done(
    out: Store, info: DatasetInfo, built: list[BuiltShard], num_ignored: int, seconds: float
) -> None:
    """The figures after it."""
    rebuilt = [shard for shard in built if shard.rebuilt]
    num_read = sum(shard.info.num_images + shard.num_rejected for shard in rebuilt)
    where = f" (reasons in {out.where(REJECTED_FOLDER)})" if info.num_rejected else ""
    print(f"{info.num_images} rows in {len(info.shards)} shards at {out.url}")
    print(f"{info.num_rejected} rejected{where}, {num_ignored} other files ignored")
    rate = num_read / seconds if seconds else 0.0
    print(
        f"{len(rebuilt)} shards made, {len(built) - len(rebuilt)} were whole and skipped; "
        f"{num_read} images read in {seconds:.1f} s, {rate:.0f} images/s",
        flush=True,
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
