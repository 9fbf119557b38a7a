"""Sizes, classes, saliency: how a set's images are spread."""

import numpy as np

from pipeline.shardset.manifest import DatasetInfo
from training.report.charts.bars import histogram, named_bars
from training.report.page import Block, Chart, Charts, Words
from training.report.shard_set.rows import Rows
from training.report.shard_set.sheet import GRID
from training.report.wording import count, percent, size

MOST_BARS = 30
FLAT = 1.0


def size_blocks(rows: Rows) -> list[Block]:
    """Sides, aspect and bytes of the images."""
    width, height = rows.column("width"), rows.column("height")
    shorter, aspect = np.minimum(width, height), width / height
    stored = rows.column("image_length") / 1000
    charts: list[Chart] = []
    lines: list[Block] = []
    if len(np.unique(shorter)) == 1:
        lines.append(Words(text=f"The shorter side of every image is {shorter[0]:.0f} px."))
    else:
        charts.append(
            histogram("sides", "Shorter side, images", shorter, x_label="px", unit="px", log_x=True)
        )
    if len(np.unique(aspect)) == 1:
        lines.append(Words(text=f"Every image has the aspect {aspect[0]:.3g} (width by height)."))
    else:
        charts.append(
            histogram("aspect", "Aspect, images", aspect, x_label="width by height", log_x=True)
        )
    charts.append(
        histogram("bytes", "Stored image, images", stored, x_label="kB", unit="kB", log_x=True)
    )
    return [*lines, Charts(charts=charts)]


def saliency_blocks(rows: Rows, info: DatasetInfo) -> list[Block]:
    """Foreground share, and spread of the maps."""
    share = rows.column("foreground_share")
    flat = int((share >= FLAT).sum())
    source = info.saliency.get("source", "unknown")
    blocks: list[Block] = [
        Words(
            text=f"Maps of {info.saliency_size} x {info.saliency_size} cells from the source "
            f"{source}. A patch of a {GRID} x {GRID} grid over the whole image is foreground where "
            "its saliency is at least the mean of the patches less 0.6 of their standard deviation."
        ),
        Charts(
            charts=(
                histogram(
                    "foreground",
                    "Foreground share, images",
                    100 * share,
                    x_label="% of patches",
                    unit="%",
                    bins=(100 * (np.arange(GRID * GRID + 1) + 0.5) / (GRID * GRID)).tolist(),
                ),
                histogram(
                    "spread",
                    "Spread of the saliency map, images",
                    rows.column("saliency_std"),
                    x_label="standard deviation within a map (a map lies in 0 to 1)",
                ),
            )
        ),
    ]
    if flat:
        blocks.append(
            Words(
                text=f"{count(flat, 'image')} ({percent(flat / len(share))}) are all foreground: "
                "their maps have no spread, or mark so little that the threshold lies below the "
                "rest. Saliency does not guide their masks.",
                tone="warning" if flat > len(share) / 10 else "plain",
            )
        )
    return blocks


def class_blocks(rows: Rows, info: DatasetInfo) -> list[Block]:
    """Images of each class."""
    counts = np.bincount(rows.labels[rows.labels >= 0], minlength=len(info.class_names))
    if len(counts) > MOST_BARS:
        return [
            Charts(
                charts=(
                    histogram(
                        "classes",
                        f"Images of a class, {len(counts):,} classes",
                        counts,
                        x_label="images",
                        unit="images",
                    ),
                )
            )
        ]
    bars = [(name, float(n)) for name, n in zip(info.class_names, counts, strict=True)]
    return [Charts(charts=(named_bars("classes", "Images of each class", bars),))]


def total_size(info: DatasetInfo) -> str:
    """Bytes of all shards."""
    return size(sum(shard.num_bytes for shard in info.shards))
