"""Cards of a set's images with their saliency and foreground."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from pipeline.core.errors import ImageError, JobError
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.saliency.foreground import foreground
from pipeline.shardset.manifest import DatasetInfo
from pipeline.shardset.reader import ShardSetReader
from training.report.pictures import (
    Card,
    Pixels,
    Strip,
    dimmed,
    grid_overlay,
    heat,
    picture,
    shrunk,
)
from training.report.shard_set.rows import Rows, read_sources
from training.report.wording import percent, shortened

GRID = 7
"""Patches along a side, as for the foreground share in the manifest."""
TILE = 220
LONGEST_NAME = 48


def cards(
    folder: Path, info: DatasetInfo, rows: Rows, numbers: Sequence[int]
) -> tuple[list[Card], list[str]]:
    """Draw the samples of some numbers.

    Returns:
        Cards, and the errors of the samples that could not be read.
    """
    reader = ShardSetReader(folder, info)
    sources = read_sources(folder, info, set(numbers))
    drawn, broken = [], []
    for number in numbers:
        try:
            sample = reader.read(number)
            image, saliency = decode_stored(sample.image), decode_saliency(sample.saliency)
        except (JobError, ImageError) as error:
            broken.append(str(error))
            continue
        height, width = image.shape[:2]
        label = int(rows.labels[number])
        name = shortened(sources[number], LONGEST_NAME)
        words = [
            f"{width} x {height} px",
            *(info.class_names[label : label + 1] if label >= 0 else ()),
            f"foreground {percent(float(rows.column('foreground_share')[number]), 0)}",
            f"mean saliency {float(rows.column('saliency_mean')[number]):.2f}",
        ]
        drawn.append(Card(name, (_strip(name, image, saliency),), ", ".join(words)))
    return drawn, broken


def _strip(name: str, image: Pixels, saliency: Pixels) -> Strip:
    small = shrunk(image, TILE)
    grid = cv2.resize(saliency.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
    marked = foreground(torch.from_numpy(np.asarray(grid) / 255)).numpy()
    return Strip(
        (
            picture(small, f"{name}, as it is stored", label="image"),
            picture(heat(small, saliency), f"{name}: saliency as heat", label="saliency"),
            picture(
                dimmed(small, marked),
                f"{name}: foreground bright, background dark",
                overlay=grid_overlay(marked, None),
                label="foreground",
            ),
        )
    )


def spread_out(count_all: int, wanted: int) -> list[int]:
    """Draw sample numbers from the whole set, the same ones every time."""
    chosen = np.random.default_rng(0).permutation(count_all)[:wanted]
    return sorted(map(int, chosen))


def extremes(rows: Rows, wanted: int) -> tuple[list[int], list[int]]:
    """Find the samples of the greatest and of the least mean saliency; none is in both lists."""
    order = np.argsort(rows.numbers["saliency_mean"], kind="stable")
    wanted = min(wanted, len(order) // 2)
    least = [int(number) for number in order[:wanted]]
    return [int(number) for number in order[::-1][:wanted]], least
