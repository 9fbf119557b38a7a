"""Rejected images, copies, and what a set was made by."""

from pathlib import Path

from pipeline.shardset.manifest import DatasetInfo
from training.report.page import Block, Folded, Table, Words, missing
from training.report.shard_set.rows import MOST_NAMES, Rows, read_sources, rejected_images
from training.report.wording import count, figure, percent, size

DIGEST = 16
MOST_REASONS = 15


def rejected_blocks(folder: Path, info: DatasetInfo) -> list[Block]:
    """How many were rejected, and why."""
    if not info.num_rejected:
        return [missing("No image was rejected.")]
    rejected = rejected_images(folder, info)
    share = info.num_rejected / (info.num_rejected + info.num_images)
    reasons = rejected.reasons.most_common(MOST_REASONS)
    blocks: list[Block] = [
        Words(
            text=f"{count(info.num_rejected, 'image')} ({percent(share, 2)} of those listed) could "
            "not be used and are not in the shards."
        )
    ]
    if rejected.unread:
        blocks.append(Words(text=rejected.unread, tone="warning"))
    if reasons:
        blocks.append(
            Table(
                caption="Reasons"
                if len(reasons) == len(rejected.reasons)
                else f"The {len(reasons)} most frequent of {len(rejected.reasons)} reasons",
                head=("reason", "images"),
                rows=[(reason, count(number)) for reason, number in reasons],
                numeric=(1,),
            )
        )
    if rejected.names:
        names = Table(
            caption=f"{count(len(rejected.names))} of {count(info.num_rejected)}",
            head=("source", "reason"),
            rows=rejected.names,
        )
        blocks.append(Folded(summary="Names of rejected images", blocks=(names,)))
    return blocks


def copy_blocks(folder: Path, info: DatasetInfo, rows: Rows) -> list[Block]:
    """Images whose source files have the same bytes."""
    if not rows.copies:
        return [missing("No two images have the same bytes (compared by sha256).")]
    extra = sum(len(group) - 1 for group in rows.copies)
    shown = rows.copies[:MOST_NAMES]
    sources = read_sources(folder, info, {number for group in shown for number in group})
    listed = [
        (
            str(len(group)),
            ", ".join(sources[number] for number in group[:6])
            + ("" if len(group) <= 6 else f" and {len(group) - 6} more"),
            "yes" if len({int(rows.labels[number]) for number in group}) > 1 else "no",
        )
        for group in shown
    ]
    conflicts = sum(row[2] == "yes" for row in listed)
    blocks: list[Block] = [
        Words(
            text=f"{count(extra, 'image is', 'images are')} byte for byte a copy of another: "
            f"{count(len(rows.copies), 'group')}, compared by sha256."
        )
    ]
    if conflicts and info.has_labels:
        blocks.append(
            Words(
                text=f"{count(conflicts, 'group')} of copies lie in different classes.",
                tone="warning",
            )
        )
    head = ("images", "sources", "labels differ") if info.has_labels else ("images", "sources")
    table = Table(
        caption=f"Groups of copies ({len(shown)} of {len(rows.copies)})",
        head=head,
        rows=[row[: len(head)] for row in listed],
        numeric=(0,),
    )
    return [*blocks, table]


def origin_blocks(info: DatasetInfo) -> list[Block]:
    """Saliency source, versions, digests, shards."""
    facts = [
        ("plan digest", info.plan_digest[:DIGEST]),
        ("schema version", str(info.schema_version)),
        *((f"saliency: {name}", figure(value)) for name, value in info.saliency.items()),
        *((f"version of {name}", text) for name, text in info.versions.items()),
    ]
    shards = Table(
        caption="Shards",
        head=("shard", "images", "size", "sha256"),
        rows=[
            (shard.name, count(shard.num_images), size(shard.num_bytes), shard.sha256[:DIGEST])
            for shard in info.shards[:MOST_NAMES]
        ],
        numeric=(1, 2),
    )
    summary = f"{count(len(info.shards), 'shard')} with sizes and digests"
    if len(info.shards) > MOST_NAMES:
        summary += f" (the first {MOST_NAMES})"
    return [
        Table(caption="What decides the shards' bytes", head=("what", "value"), rows=facts),
        Folded(summary=summary, blocks=(shards,)),
    ]
