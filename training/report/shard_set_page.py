"""The report of a shard set."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo, check_shards, load_dataset_info
from training.report.config import ReportConfig
from training.report.figures import Chart, histogram, named_bars
from training.report.shard_set.rows import (
    MOST_NAMES,
    Rows,
    read_rejected_images,
    read_rows,
    read_sources,
)
from training.report.shard_set.sheet import GRID, cards, extremes, spread_out
from training.report.wording import NONE, count, figure, folder_title, percent, size

MOST_BARS, MOST_REASONS, DIGEST = 30, 15, 16


def shard_set_page(config: ReportConfig) -> dict[str, Any]:
    """Read a set's manifests and some of its images, for `shard_set.html`.

    Raises:
        InputError: the set is unfinished, or a manifest is missing or damaged.
    """
    folder = config.folder
    info = load_dataset_info(folder)
    rows = read_rows(folder, info)
    rejected = read_rejected_images(folder, info)
    most, least = extremes(rows, max(1, config.images // 4))
    groups = {
        "images": spread_out(info.num_images, config.images),
        "most": most,
        "least": least,
    }
    return {
        "title": folder_title(folder),
        "kicker": "shard set",
        "folder": folder,
        "summary": _summary(folder, info),
        "facts": _facts(info, rows),
        "info": info,
        "rejected": rejected,
        "reasons": [(text, count(n)) for text, n in rejected.reasons.most_common(MOST_REASONS)],
        "rejected_share": info.num_rejected / max(1, info.num_rejected + info.num_images),
        "copies": rows.copies,
        "extra": sum(len(group) - 1 for group in rows.copies),
        "copy_rows": _copies(folder, info, rows),
        "origin": _origin(info),
        "shards": [
            (shard.name, count(shard.num_images), size(shard.num_bytes), shard.sha256[:DIGEST])
            for shard in info.shards[:MOST_NAMES]
        ],
        **(_charts(info, rows) if info.num_images else {}),
        "sheets": {name: cards(folder, info, rows, chosen) for name, chosen in groups.items()},
        "grid": GRID,
    }


def _summary(folder: Path, info: DatasetInfo) -> str:
    try:
        check_shards(folder, info)
    except InputError as error:
        return f"The set was finished, but it is no longer complete: {error}"
    return (
        f"{count(info.num_images, 'image')} with saliency maps in "
        f"{count(len(info.shards), 'shard')}. Every shard is there and has its recorded size."
    )


def _facts(info: DatasetInfo, rows: Rows) -> list[tuple[str, str]]:
    facts = [
        ("images", count(info.num_images)),
        ("rejected", count(info.num_rejected)),
        ("byte-for-byte copies", count(sum(len(group) - 1 for group in rows.copies))),
        ("classes", count(len(info.class_names)) if info.has_labels else "no labels"),
        ("shards", count(len(info.shards))),
        ("size", size(sum(shard.num_bytes for shard in info.shards))),
        ("saliency", str(info.saliency.get("source", "unknown"))),
    ]
    if info.num_images:
        median = float(np.median(rows.column("foreground_share")))
        facts.append(("median foreground", percent(median)))
    return facts


def _charts(info: DatasetInfo, rows: Rows) -> dict[str, Any]:
    """Sizes, foreground, saliency and classes of a set that has images."""
    width, height = rows.column("width"), rows.column("height")
    share, cells = rows.column("foreground_share"), GRID * GRID
    stored = rows.column("image_length") / 1000
    return {
        "sizes": [
            histogram(
                "Shorter side", np.minimum(width, height), x_label="px", unit="px", log_x=True
            ),
            histogram("Width by height", width / height, x_label="width / height", log_x=True),
            histogram("Stored size", stored, x_label="kB", unit="kB", log_x=True),
        ],
        "saliency": [
            histogram(
                "Foreground share",
                100 * share,
                x_label="% of the patches of an image",
                unit="%",
                bins=(100 * (np.arange(cells + 1) + 0.5) / cells).tolist(),
            ),
            histogram(
                "Spread of the saliency map",
                rows.column("saliency_std"),
                x_label="standard deviation within a map (values 0 to 1)",
            ),
        ],
        "flat": int((share >= 1).sum()),
        "classes": _classes(info, rows),
    }


def _classes(info: DatasetInfo, rows: Rows) -> Chart | None:
    if not info.has_labels:
        return None
    counts = np.bincount(rows.labels[rows.labels >= 0], minlength=len(info.class_names))
    if len(counts) > MOST_BARS:
        return histogram(
            f"Images of a class, {count(len(counts), 'class', 'classes')}",
            counts,
            x_label="images of a class",
            unit="images",
            counted="classes",
        )
    bars = [(name, float(n)) for name, n in zip(info.class_names, counts, strict=True)]
    return named_bars("Images of each class", bars)


def _copies(folder: Path, info: DatasetInfo, rows: Rows) -> list[tuple[str, str, str]]:
    """Groups of equal files: how many, their names, and whether their labels differ."""
    groups = rows.copies[:MOST_NAMES]
    sources = read_sources(folder, info, {number for group in groups for number in group})
    return [
        (
            str(len(group)),
            ", ".join(sources[number] for number in group[:6])
            + ("" if len(group) <= 6 else f" and {len(group) - 6} more"),
            "yes" if len({int(rows.labels[number]) for number in group}) > 1 else NONE,
        )
        for group in groups
    ]


def _origin(info: DatasetInfo) -> list[tuple[str, str]]:
    return [
        ("plan digest", info.plan_digest[:DIGEST]),
        ("schema version", str(info.schema_version)),
        *((f"saliency: {name}", figure(value)) for name, value in info.saliency.items()),
        *((f"version of {name}", text) for name, text in info.versions.items()),
    ]
