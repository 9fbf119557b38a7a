"""The report of a shard set."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import check
from pipeline.saliency.foreground import GRID_SIDE, foreground
from pipeline.saliency.interface import three_channels
from pipeline.saliency.worth import worth_of
from pipeline.shardset import manifest
from pipeline.shardset.manifest import DatasetInfo
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import MANIFEST_SCHEMA
from training.report.config import ReportConfig
from training.report.figures import Chart, histogram, named_bars
from training.report.pictures import (
    Card,
    as_stored,
    grid_overlay,
    picture,
    shrunk,
)
from training.report.state import or_problem, or_problems
from training.report.wording import NONE, count, percent, shortened

COLUMNS = [
    *("width", "height", "image_length", "saliency_mean", "saliency_std", "foreground_share"),
    *("separability", "label", "sha256", "source"),
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

    Raises `InputError` if the set is unfinished, or a manifest is missing or damaged.
    """
    folder = config.folder
    info = manifest.load_dataset_info(folder)
    rows = read_rows(folder, info)
    # Groups of samples, by number, whose source files have the same bytes.
    numbered = rows.select(["sha256"]).append_column("number", pa.array(np.arange(len(rows))))
    groups = numbered.group_by("sha256").aggregate([("number", "list")])["number_list"]
    copies = groups.filter(pc.greater(pc.list_value_length(groups), 1)).to_pylist()
    copies = sorted(map(sorted, copies))
    order = np.argsort(rows["saliency_mean"].to_numpy(), kind="stable")
    extremes = min(max(1, config.images // 4), len(order) // 2)
    drawn = np.random.default_rng(0).permutation(info.num_images)[: config.images]
    sheets = {"images": np.sort(drawn), "most": order[::-1][:extremes], "least": order[:extremes]}
    share = rows["foreground_share"].to_numpy()
    rejected, unread = or_problem(rejected_images, folder, info)
    card = partial(_card, ShardSetReader(folder, info), info, rows)
    reasons = Counter(reason for _, reason in rejected or ())
    return {
        "info": info,
        "problem": or_problem(manifest.check_shards, folder, info)[1],
        "num_bytes": sum(shard.num_bytes for shard in info.shards),
        "median_foreground": float(np.median(share)) if info.num_images else 0.0,
        "flat": int((share >= 1).sum()),
        "worth": worth_of(rows["separability"].drop_null().to_pylist()),
        "rejected": (rejected or [])[:MOST_NAMES],
        "unread": unread,
        "reasons": [(text, count(number)) for text, number in reasons.most_common()],
        "most_reasons": MOST_REASONS,
        "most_names": MOST_NAMES,
        "copies": copies,
        "num_extra": sum(len(group) - 1 for group in copies),
        "copy_rows": [_copies(rows, group) for group in copies[:MOST_NAMES]],
        **(_charts(info, rows) if info.num_images else {}),
        "sheets": {name: or_problems(card, some.tolist()) for name, some in sheets.items()},
        "grid": GRID_SIDE,
    }


def read_rows(folder: Path, info: DatasetInfo) -> pa.Table:
    """Read `COLUMNS` of all manifests, in the order that numbers the samples: 200 bytes an image.

    Raises `InputError` if one is missing or damaged.
    """
    parts = [MANIFEST_SCHEMA.empty_table().select(COLUMNS)]
    for shard in info.shards:
        parts.append(manifest.read_manifest(folder, shard.name, COLUMNS))
        check(
            parts[-1].num_rows == shard.num_images,
            f"the manifest of {shard.name} in {folder} has {parts[-1].num_rows} rows, "
            f"dataset.json says {shard.num_images}: run jobs/precompute.py again",
        )
    return pa.concat_tables(parts)


def _copies(rows: pa.Table, group: list[int]) -> tuple[str, str, str]:
    """Of a group of equal files: how many, their names, and whether their labels differ."""
    names = rows["source"].take(group[:MOST_COPIES]).to_pylist()
    more = f" and {len(group) - len(names)} more" if len(group) > len(names) else ""
    differ = len(set(rows["label"].take(group).to_pylist())) > 1
    return str(len(group)), ", ".join(names) + more, "yes" if differ else NONE


def rejected_images(folder: Path, info: DatasetInfo) -> list[tuple[str, str]]:
    """Names of the images that could not be used, and why."""
    shards = info.shards if info.num_rejected else ()
    tables = [manifest.read_rejected(folder, shard.name).to_pylist() for shard in shards]
    return [(row["source"], row["reason"]) for table in tables for row in table]


def _charts(info: DatasetInfo, rows: pa.Table) -> dict[str, Any]:
    """Sizes, foreground, saliency and classes of a set that has images."""
    width, height, stored, spread, share = (
        rows[name].to_numpy()
        for name in ("width", "height", "image_length", "saliency_std", "foreground_share")
    )
    separable = rows["separability"].drop_null().to_numpy()
    shorter, cells = np.minimum(width, height), GRID_SIDE**2
    edges = (100 * (np.arange(cells + 1) + 0.5) / cells).tolist()
    of_map = "standard deviation within a map (values 0 to 1)"
    of_patches = "% of the patches of an image"
    of_classes = "share of a map's variance between object and background"
    return {
        "sizes": [
            histogram("Shorter side", shorter, x_label="px", log_x=True),
            histogram("Width by height", width / height, x_label="width / height", log_x=True),
            histogram("Stored size", stored / 1000, x_label="kB", log_x=True),
        ],
        "saliency": [
            histogram("Foreground share", 100 * share, x_label=of_patches, edges=edges),
            histogram("Spread of the saliency map", spread, x_label=of_map),
            *([histogram("Separability", separable, x_label=of_classes)] if len(separable) else []),
        ],
        "classes": _classes(info, rows) if info.has_labels else None,
    }


def _classes(info: DatasetInfo, rows: pa.Table) -> Chart:
    labels = rows["label"].drop_null().to_numpy()
    counts = np.bincount(labels, minlength=len(info.class_names)).tolist()
    if len(counts) <= MOST_BARS:
        return named_bars("Images of each class", list(zip(info.class_names, counts, strict=True)))
    title = f"Images of a class, {count(len(counts), 'class', 'classes')}"
    return histogram(title, counts, x_label="images of a class", counted="classes")


def _card(reader: ShardSetReader, info: DatasetInfo, rows: pa.Table, number: int) -> Card:
    image, saliency = reader.read_pixels(number)
    row = {name: rows[name][number].as_py() for name in COLUMNS}
    name = shortened(row["source"], LONGEST_NAME)
    words = [
        f"{image.shape[1]} x {image.shape[0]} px",
        *([] if row["label"] is None else info.class_names[row["label"] :][:1]),
        f"foreground {percent(row['foreground_share'], 0)}",
        f"mean saliency {row['saliency_mean']:.2f}",
    ]
    small, side = shrunk(three_channels(image), TILE), (GRID_SIDE, GRID_SIDE)
    grid = cv2.resize(saliency / np.float64(255), side, interpolation=cv2.INTER_AREA)
    marked = np.asarray(foreground(np.asarray(grid, np.float64)), np.bool_)
    alt, overlay = f"{name}: its foreground, outlined", grid_overlay(marked)
    outlined = picture(small, alt, overlay=overlay, label="foreground")
    return Card(name, [("", [*as_stored(small, saliency, name), outlined])], ", ".join(words))
