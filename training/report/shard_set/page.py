"""The report of a shard set."""

from pathlib import Path

import numpy as np

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo, check_shards, load_dataset_info
from training.report.config import ReportConfig
from training.report.page import Block, Facts, Page, Section, Words
from training.report.shard_set.about import copy_blocks, origin_blocks, rejected_blocks
from training.report.shard_set.distributions import (
    class_blocks,
    saliency_blocks,
    size_blocks,
    total_size,
)
from training.report.shard_set.rows import Rows, read_rows
from training.report.shard_set.sheet import Sheet, extremes, spread_out
from training.report.wording import count, folder_title, percent


def shard_set_page(config: ReportConfig) -> Page:
    """Read a set's manifests and some of its images.

    Raises:
        InputError: an unfinished set, or manifests that are missing or damaged.
    """
    folder = config.folder
    info = load_dataset_info(folder)
    rows = read_rows(folder, info)
    copies = sum(len(group) - 1 for group in rows.copies)
    facts = [
        ("images", count(info.num_images)),
        ("rejected", count(info.num_rejected)),
        ("byte-for-byte copies", count(copies)),
        ("classes", count(len(info.class_names)) if info.has_labels else "no labels"),
        ("shards", count(len(info.shards))),
        ("size", total_size(info)),
        ("saliency", str(info.saliency.get("source", "unknown"))),
    ]
    if info.num_images:
        facts.append(
            ("median foreground", percent(float(np.median(rows.column("foreground_share")))))
        )
    sections = [
        *(_about_images(config, info, rows) if info.num_images else ()),
        Section(anchor="rejected", title="Rejected", blocks=rejected_blocks(folder, info)),
        Section(anchor="copies", title="Copies", blocks=copy_blocks(folder, info, rows)),
        Section(anchor="origin", title="Origin", blocks=origin_blocks(info)),
    ]
    return Page(
        title=folder_title(folder),
        kicker="shard set",
        place=str(folder),
        summary=_summary(folder, info),
        facts=Facts(pairs=facts),
        sections=sections,
    )


def _summary(folder: Path, info: DatasetInfo) -> str:
    try:
        check_shards(folder, info)
    except InputError as error:
        return f"The set was finished, but it is no longer whole: {error}"
    return (
        f"{count(info.num_images, 'image')} with saliency maps in "
        f"{count(len(info.shards), 'shard')}; every shard is there with the size that it was "
        "written with."
    )


def _about_images(config: ReportConfig, info: DatasetInfo, rows: Rows) -> list[Section]:
    sheet = Sheet(config.folder, info, rows)
    most, least = extremes(rows, max(1, config.images // 4))
    words = Words(
        text=f"{min(config.images, info.num_images)} of {count(info.num_images, 'image')}, at "
        "random. Saliency is drawn as heat over the image; the foreground is outlined."
    )
    sections = [
        Section(
            anchor="images",
            title="Images",
            blocks=(words, *sheet.blocks(spread_out(info.num_images, config.images))),
        ),
        Section(anchor="foreground", title="Foreground", blocks=saliency_blocks(rows, info)),
    ]
    for anchor, degree, numbers, why in (
        ("most", "greatest", most, "large or repeated objects, or maps that mark too much."),
        ("least", "least", least, "small objects, or maps that found next to nothing."),
    ):
        line = Words(text=f"The {len(numbers)} images of the {degree} mean saliency: {why}")
        blocks: list[Block] = [line, *sheet.blocks(numbers)]
        if numbers:
            title = f"{anchor.capitalize()} salient"
            sections.append(Section(anchor=anchor, title=title, blocks=blocks))
    sections.append(Section(anchor="sizes", title="Sizes", blocks=size_blocks(rows)))
    if info.has_labels:
        sections.append(Section(anchor="classes", title="Classes", blocks=class_blocks(rows, info)))
    return sections
