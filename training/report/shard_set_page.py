"""The report of a shard set."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import ImageError, InputError, JobError
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.saliency.foreground import GRID_SIDE, foreground
from pipeline.shardset.manifest import (
    DatasetInfo,
    check_shards,
    load_dataset_info,
    read_manifest,
    read_rejected,
)
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import MANIFEST_SCHEMA
from training.report.config import ReportConfig
from training.report.figures import Chart, histogram, named_bars
from training.report.kinds import or_problem
from training.report.pictures import Card, Pixels, Strip, grid_overlay, heat, picture, shrunk
from training.report.wording import NONE, count, percent, shortened

COLUMNS = [
    "width",
    "height",
    "image_length",
    "saliency_mean",
    "saliency_std",
    "foreground_share",
    "label",
    "sha256",
    "source",
]
TILE = 220
LONGEST_NAME = 48
MOST_BARS, MOST_REASONS = 30, 15
MOST_NAMES = 200
"""Rejected images, groups of copies and shards that are listed."""
MOST_COPIES = 6
"""Names that are listed of a group of copies."""


def shard_set_page(config: ReportConfig) -> dict[str, Any]:
    """Read a set's manifests and some of its images, for `shard_set.html`.

    Raises:
        InputError: the set is unfinished, or a manifest is missing or damaged.
    """
    folder = config.folder
    info = load_dataset_info(folder)
    rows = read_rows(folder, info)
    copies = copies_of(rows)
    order = np.argsort(rows["saliency_mean"].to_numpy(), kind="stable")
    extremes = min(max(1, config.images // 4), len(order) // 2)
    drawn = np.random.default_rng(0).permutation(info.num_images)[: config.images]
    groups = {
        "images": np.sort(drawn),
        "most": order[::-1][:extremes],
        "least": order[:extremes],
    }
    share = rows["foreground_share"].to_numpy()
    rejected, unread = or_problem(_rejected, folder, info)
    reasons = Counter(reason for _, reason in rejected or ())
    return {
        "info": info,
        "problem": or_problem(check_shards, folder, info)[1],
        "num_bytes": sum(shard.num_bytes for shard in info.shards),
        "median_foreground": float(np.median(share)) if info.num_images else 0.0,
        "flat": int((share >= 1).sum()),
        "rejected": (rejected or [])[:MOST_NAMES],
        "unread": unread,
        "reasons": [(text, count(number)) for text, number in reasons.most_common()],
        "most_reasons": MOST_REASONS,
        "most_names": MOST_NAMES,
        "copies": copies,
        "num_extra": sum(len(group) - 1 for group in copies),
        "copy_rows": _copies(rows, copies[:MOST_NAMES]),
        **(_charts(info, rows) if info.num_images else {}),
        "sheets": {
            name: draw_cards(folder, info, rows, numbers.tolist())
            for name, numbers in groups.items()
        },
        "grid": GRID_SIDE,
    }


def copies_of(rows: pa.Table) -> list[list[int]]:
    """Groups of sample numbers whose source files have the same bytes."""
    numbered = rows.select(["sha256"]).append_column("number", pa.array(np.arange(len(rows))))
    groups = numbered.group_by("sha256").aggregate([("number", "list")])["number_list"]
    return sorted(
        map(sorted, groups.filter(pc.greater(pc.list_value_length(groups), 1)).to_pylist())
    )


def _charts(info: DatasetInfo, rows: pa.Table) -> dict[str, Any]:
    """Sizes, foreground, saliency and classes of a set that has images."""
    width, height, stored, spread, share = (
        rows[name].to_numpy()
        for name in ("width", "height", "image_length", "saliency_std", "foreground_share")
    )
    shorter, cells = np.minimum(width, height), GRID_SIDE**2
    return {
        "sizes": [
            histogram("Shorter side", shorter, x_label="px", log_x=True),
            histogram("Width by height", width / height, x_label="width / height", log_x=True),
            histogram("Stored size", stored / 1000, x_label="kB", log_x=True),
        ],
        "saliency": [
            histogram(
                "Foreground share",
                100 * share,
                x_label="% of the patches of an image",
                edges=(100 * (np.arange(cells + 1) + 0.5) / cells).tolist(),
            ),
            histogram(
                "Spread of the saliency map",
                spread,
                x_label="standard deviation within a map (values 0 to 1)",
            ),
        ],
        "classes": _classes(info, rows),
    }


def _classes(info: DatasetInfo, rows: pa.Table) -> Chart | None:
    if not info.has_labels:
        return None
    labels = rows["label"].drop_null().to_numpy()
    counts = np.bincount(labels, minlength=len(info.class_names)).tolist()
    if len(counts) > MOST_BARS:
        return histogram(
            f"Images of a class, {count(len(counts), 'class', 'classes')}",
            counts,
            x_label="images of a class",
            counted="classes",
        )
    return named_bars("Images of each class", list(zip(info.class_names, counts, strict=True)))


def _rejected(folder: Path, info: DatasetInfo) -> list[tuple[str, str]]:
    """Names of the images that could not be used, and why."""
    shards = info.shards if info.num_rejected else ()
    tables = [read_rejected(folder, shard.name).to_pylist() for shard in shards]
    return [(row["source"], row["reason"]) for table in tables for row in table]


def _copies(rows: pa.Table, groups: list[list[int]]) -> list[tuple[str, str, str]]:
    """Groups of equal files: how many, their names, and whether their labels differ."""
    table = []
    for group in groups:
        names = rows["source"].take(group[:MOST_COPIES]).to_pylist()
        more = len(group) - len(names)
        differ = len(set(rows["label"].take(group).to_pylist())) > 1
        text = ", ".join(names) + (f" and {more} more" if more else "")
        table.append((str(len(group)), text, "yes" if differ else NONE))
    return table


def read_rows(folder: Path, info: DatasetInfo) -> pa.Table:
    """Read `COLUMNS` of all manifests, in the order that numbers the samples.

    Takes about 200 bytes per image.

    Raises:
        InputError: a manifest is missing or damaged.
    """
    parts = [MANIFEST_SCHEMA.empty_table().select(COLUMNS)]
    for shard in info.shards:
        parts.append(read_manifest(folder, shard.name, COLUMNS))
        if parts[-1].num_rows != shard.num_images:
            raise InputError(
                f"the manifest of {shard.name} in {folder} has {parts[-1].num_rows} rows, "
                f"dataset.json says {shard.num_images}: run jobs/precompute.py again"
            )
    return pa.concat_tables(parts)


def draw_cards(
    folder: Path, info: DatasetInfo, rows: pa.Table, numbers: Sequence[int]
) -> tuple[list[Card], list[str]]:
    """Draw the samples of some numbers.

    Returns:
        Cards, and the errors of the samples that could not be read.
    """
    reader = ShardSetReader(folder, info)
    drawn, broken = [], []
    for number in numbers:
        try:
            sample = reader.read(number)
            image, saliency = decode_stored(sample.image), decode_saliency(sample.saliency)
        except (JobError, ImageError) as error:
            broken.append(str(error))
            continue
        row = {name: rows[name][number].as_py() for name in COLUMNS}
        name = shortened(row["source"], LONGEST_NAME)
        words = [
            f"{image.shape[1]} x {image.shape[0]} px",
            *([] if row["label"] is None else info.class_names[row["label"] :][:1]),
            f"foreground {percent(row['foreground_share'], 0)}",
            f"mean saliency {row['saliency_mean']:.2f}",
        ]
        drawn.append(Card(name, (_strip(name, image, saliency),), ", ".join(words)))
    return drawn, broken


def _strip(name: str, image: Pixels, saliency: Pixels) -> Strip:
    small = shrunk(image, TILE)
    side = (GRID_SIDE, GRID_SIDE)
    grid = cv2.resize(saliency / np.float64(255), side, interpolation=cv2.INTER_AREA)
    marked = np.asarray(foreground(np.asarray(grid, np.float64)), np.bool_)
    outlined, edge = f"{name}: its foreground, outlined", grid_overlay(marked)
    return Strip(
        (
            picture(small, f"{name}, as it is stored", label="image"),
            picture(heat(small, saliency), f"{name}: saliency as heat", label="saliency"),
            picture(small, outlined, overlay=edge, label="foreground"),
        )
    )
