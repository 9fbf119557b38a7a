"""One shard from its sources: read, decode, saliency, tar, rejected list, manifest.

What is wrong with an image's bytes costs that image only. What is wrong with reading or writing
is tried again and then fails the shard: an outage never turns into rejections.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.errors import ImageError, InputError
from pipeline.images.codecs import (
    DecodedSource,
    decode_source,
    encode_png,
    saliency_levels,
    shrink_source,
)
from pipeline.precompute.plan_files import planned_rows
from pipeline.saliency.external import External
from pipeline.saliency.interface import Map, SaliencySource
from pipeline.saliency.statistics import map_statistics
from pipeline.shardset.manifest import (
    ShardInfo,
    ShardRecord,
    read_manifest,
    read_record,
    read_rejected,
    write_manifest,
    write_rejected,
)
from pipeline.shardset.schema import sample_key, shard_file, shard_name
from pipeline.shardset.writer import NewSample, ShardWriter, open_shard
from pipeline.sources.listing import DataPlace
from pipeline.sources.reading import RawImage, read_images
from pipeline.storage.storage import Store, StoreError

BATCH_PIXELS = 32_000_000
HASHED_AT_ONCE = 8 << 20


class Watch(Protocol):
    """Is told which sources are worked at next: one decoded, a batch of maps computed, or none."""

    def __call__(self, *sources: str) -> None:
        """Work at these sources begins; at none: it has ended."""


def no_watch(*sources: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Everything that a process needs to make one shard, whatever the number of images.

    Attributes:
        data: how the images are read.
        out: where the shard set lies.
        first_shard: number of its plan's first shard.
        number: of the shard in its plan, from 0.
        plan_digest: of its plan.
        saliency: where the maps come from.
        saliency_size: side of the stored maps in cells.
        max_pixels: larger images are rejected before they are decoded.
        resize_short: images with a longer shorter side are stored smaller; 0: as they are.
        generation: which of the set's plans it belongs to: 0, or that of an append.
        batch_images: how many images the saliency source is given at once.
        rejected: sources that are known to kill their process, and how.
    """

    data: DataPlace
    out: Store
    plan_digest: str
    saliency: SaliencySource
    saliency_size: int
    max_pixels: int
    resize_short: int = 0
    generation: int = 0
    first_shard: int = 0
    number: int = 0
    batch_images: int = 16
    rejected: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the shard."""
        return shard_name(self.first_shard + self.number)

    def numbered(self, number: int) -> "ShardJob":
        """The same job for another shard of the plan."""
        return replace(self, number=number)


@dataclass(frozen=True)
class BuiltShard:
    """What came of a shard; `rebuilt` is False where it was whole already."""

    info: ShardInfo
    num_rejected: int
    rebuilt: bool


def ensure_shard(job: ShardJob, watch: Watch = no_watch) -> BuiltShard:
    """Make a shard, unless it is there and whole.

    Args:
        job: the shard.
        watch: is told which sources are worked at.

    Raises:
        InputError: a source cannot be read, has vanished, or has changed; names it; or a store
            cannot be reached.
        OSError: the shard cannot be written.
    """
    record = read_record(job.out, job.name)
    if record is not None and is_whole(job, record):
        return BuiltShard(record.shard, record.num_rejected, rebuilt=False)
    return _build(job, _known_digests(job), watch)


def rehearse(job: ShardJob, source: str, watch: Watch = no_watch) -> None:
    """Do with one source of a shard all that is done with it, but writing.

    Raises:
        InputError: the source cannot be read.
    """
    planned = planned_rows(job.out, job.number, job.generation)
    (image,) = read_images(job.data, planned.filter(pc.equal(planned["source"], source)))
    try:
        ready = _decode(job, image, "", watch)
    except ImageError:
        return
    _map_batch(job, [ready], watch)


def is_whole(job: ShardJob, record: ShardRecord) -> bool:
    """Whether tar and rejected list are what the manifest, written last, says of them.

    A local tar is read and compared with its digest. An object is there as it was uploaded or not
    at all: its size has to do.
    """
    if record.plan_digest != job.plan_digest:
        return False
    if job.out.size(shard_file(job.name)) != record.shard.num_bytes:
        return False
    try:
        num_rejected = read_rejected(job.out, job.name).num_rows
    except StoreError:
        raise
    except InputError:
        return False
    if num_rejected != record.num_rejected:
        return False
    return job.out.is_remote or _digest_of(job) == record.shard.sha256


def _digest_of(job: ShardJob) -> str:
    digest = hashlib.sha256()
    with job.out.open(shard_file(job.name)) as file:
        while chunk := file.read(HASHED_AT_ONCE):
            digest.update(chunk)
    return digest.hexdigest()


def _known_digests(job: ShardJob) -> dict[str, str]:
    """sha256 by source, of an earlier build of this shard, where its manifest can be read."""
    try:
        table = read_manifest(job.out, job.name, ["source", "sha256"])
    except StoreError:
        raise
    except InputError:
        return {}
    return dict(zip(table["source"].to_pylist(), table["sha256"].to_pylist(), strict=True))


def _build(job: ShardJob, known: dict[str, str], watch: Watch) -> BuiltShard:
    name = job.name
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    planned = planned_rows(job.out, job.number, job.generation)
    with open_shard(job.out, name) as writer:
        batch: list[_Ready] = []
        for image in read_images(job.data, planned):
            digest = hashlib.sha256(image.data).hexdigest()
            if known.get(image.source, digest) != digest:
                raise InputError(
                    f"{image.source} has changed since {name} was made: "
                    "choose another --out, or put the old file back"
                )
            try:
                batch.append(_decode(job, image, digest, watch))
            except ImageError as error:
                rejected.append({"source": image.source, "reason": str(error)})
                continue
            num_pixels = sum(ready.decoded.pixels.size // 3 for ready in batch)
            if len(batch) == job.batch_images or num_pixels > BATCH_PIXELS:
                rows += _write_batch(job, writer, batch, watch)
                batch = []
        rows += _write_batch(job, writer, batch, watch)
        info = writer.finish()
    write_rejected(job.out, name, rejected)
    record = ShardRecord(shard=info, plan_digest=job.plan_digest, num_rejected=len(rejected))
    write_manifest(job.out, record, rows)
    return BuiltShard(info, len(rejected), rebuilt=True)


@dataclass(frozen=True)
class _Ready:
    """An image that goes into the shard; its map is None where the source computes it."""

    source: str
    label: int | None
    sha256: str
    decoded: DecodedSource
    given_map: Map | None


def _decode(job: ShardJob, image: RawImage, digest: str, watch: Watch) -> _Ready:
    if image.source in job.rejected:
        raise ImageError(job.rejected[image.source])
    watch(image.source)
    try:
        decoded = decode_source(image.data, job.max_pixels)
        given_map = None
        if isinstance(job.saliency, External):
            given_map = job.saliency.map_of(image.source, decoded.pixels, image.mask)
        if job.resize_short:
            decoded = shrink_source(decoded, job.resize_short)
    finally:
        watch()
    return _Ready(image.source, image.label, digest, decoded, given_map)


def _map_batch(job: ShardJob, batch: list[_Ready], watch: Watch) -> list[NDArray[np.uint8]]:
    """The levels that are stored of decoded images' maps."""
    maps = [ready.given_map for ready in batch if ready.given_map is not None]
    if len(maps) < len(batch):
        watch(*(ready.source for ready in batch))
        try:
            maps = list(job.saliency([ready.decoded.pixels for ready in batch]))
        finally:
            watch()
    return [saliency_levels(saliency_map, job.saliency_size) for saliency_map in maps]


def _write_batch(
    job: ShardJob, writer: ShardWriter, batch: list[_Ready], watch: Watch
) -> list[dict[str, Any]]:
    """Write decoded images with their saliency; returns their manifest rows."""
    if not batch:
        return []
    rows = []
    for ready, levels in zip(batch, _map_batch(job, batch, watch), strict=True):
        height, width = ready.decoded.pixels.shape[:2]
        row = writer.add(
            NewSample(
                key=sample_key(ready.source),
                image=ready.decoded.stored_bytes,
                image_ext=ready.decoded.ext,
                saliency=encode_png(levels),
                source=ready.source,
                width=width,
                height=height,
                label=ready.label,
                sha256=ready.sha256,
            )
        )
        statistics = map_statistics(levels)
        row["saliency_mean"] = statistics.mean
        row["saliency_std"] = statistics.std
        row["foreground_share"] = statistics.foreground_share
        rows.append(row)
    return rows
