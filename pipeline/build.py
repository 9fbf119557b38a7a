"""One shard from its sources: read, decode, saliency, tar, rejected list, manifest.

What is wrong with an image's bytes costs that image only. What is wrong with reading or writing
is tried again and then fails the shard: an outage never turns into rejections.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.codecs import DecodedSource, decode_saliency, decode_source, encode_saliency
from pipeline.errors import ImageError, InputError
from pipeline.manifest import (
    ShardInfo,
    ShardRecord,
    read_manifest,
    read_record,
    write_manifest,
    write_rejected,
)
from pipeline.plan import PlannedShard
from pipeline.saliency.interface import SaliencySource
from pipeline.saliency.statistics import map_statistics
from pipeline.schema import rejected_path, sample_key, shard_path
from pipeline.shards import NewSample, ShardWriter, open_shard
from pipeline.sources import SourceImage

READ_PAUSES = (0.1, 0.5, 2.0)
"""Seconds to wait before a failed read is tried again."""
BATCH_IMAGES = 16
BATCH_PIXELS = 32_000_000


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Everything that a process needs to make one shard; paths are absolute.

    `rejected` has the sources that are known to kill their process, with the reason: they are not
    read.
    """

    data: Path
    out: Path
    shard: PlannedShard
    plan_digest: str
    saliency: SaliencySource
    saliency_size: int
    max_pixels: int
    rejected: Mapping[str, str] = field(default_factory=dict)


class Watch(Protocol):
    """Is told which sources are worked at next: one decoded, a batch of maps computed, or none."""

    def __call__(self, *sources: str) -> None:
        """Work at these sources begins; at none: it has ended."""


def no_watch(*sources: str) -> None:
    """Nobody wants to know."""


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
        InputError: a source cannot be read, has vanished, or has changed; names it.
        OSError: the shard cannot be written.
    """
    record = read_record(job.out, job.shard.name)
    if record is not None and _is_whole(job, record):
        return BuiltShard(record.shard, record.num_rejected, rebuilt=False)
    return _build(job, _known_digests(job), watch)


def rehearse(job: ShardJob, source: str, watch: Watch = no_watch) -> None:
    """Do with one source of a shard all that is done with it, but writing.

    Raises:
        InputError: the source cannot be read.
    """
    (image,) = (image for image in job.shard.images if image.source == source)
    data = _read_source(job.data, image)
    try:
        pixels = _decode(job, image, data, watch).pixels
    except ImageError:
        return
    watch(source)
    encode_saliency(job.saliency([pixels])[0], job.saliency_size)
    watch()


def _is_whole(job: ShardJob, record: ShardRecord) -> bool:
    """Whether tar and rejected list are what the manifest, written last, says of them."""
    if record.plan_digest != job.plan_digest:
        return False
    path = shard_path(job.out, job.shard.name)
    if not path.is_file() or path.stat().st_size != record.shard.num_bytes:
        return False
    try:
        num_rejected = pq.read_metadata(rejected_path(job.out, job.shard.name)).num_rows
    except (OSError, pa.ArrowException):
        return False
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return num_rejected == record.num_rejected and digest == record.shard.sha256


def _known_digests(job: ShardJob) -> dict[str, str]:
    """sha256 by source, of an earlier build of this shard, where its manifest can be read."""
    try:
        table = read_manifest(job.out, job.shard.name, ["source", "sha256"])
    except InputError:
        return {}
    return dict(zip(table["source"].to_pylist(), table["sha256"].to_pylist(), strict=True))


def _build(job: ShardJob, known: dict[str, str], watch: Watch) -> BuiltShard:
    name = job.shard.name
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    with open_shard(job.out, name) as writer:
        batch: list[_Decoded] = []
        for image in job.shard.images:
            if image.source in job.rejected:
                reason = job.rejected[image.source]
                rejected.append({"source": image.source, "reason": reason})
                continue
            data = _read_source(job.data, image)
            digest = hashlib.sha256(data).hexdigest()
            if known.get(image.source, digest) != digest:
                raise InputError(
                    f"{image.source} has changed since {name} was made: "
                    "choose another --out, or put the old file back"
                )
            try:
                decoded = _decode(job, image, data, watch)
            except ImageError as error:
                rejected.append({"source": image.source, "reason": str(error)})
                continue
            batch.append(_Decoded(image, digest, decoded))
            num_pixels = sum(d.decoded.pixels.size // 3 for d in batch)
            if len(batch) == BATCH_IMAGES or num_pixels > BATCH_PIXELS:
                rows += _write_batch(job, writer, batch, watch)
                batch = []
        rows += _write_batch(job, writer, batch, watch)
        info = writer.finish()
    write_rejected(job.out, name, rejected)
    record = ShardRecord(shard=info, plan_digest=job.plan_digest, num_rejected=len(rejected))
    write_manifest(job.out, record, rows)
    return BuiltShard(info, len(rejected), rebuilt=True)


def _decode(job: ShardJob, image: SourceImage, data: bytes, watch: Watch) -> DecodedSource:
    watch(image.source)
    try:
        with _silent_stderr():
            return decode_source(data, job.max_pixels)
    finally:
        watch()


@dataclass(frozen=True)
class _Decoded:
    image: SourceImage
    sha256: str
    decoded: DecodedSource


def _write_batch(
    job: ShardJob, writer: ShardWriter, batch: list[_Decoded], watch: Watch
) -> list[dict[str, Any]]:
    """Write decoded images with their saliency; returns their manifest rows."""
    if not batch:
        return []
    watch(*(item.image.source for item in batch))
    maps = job.saliency([item.decoded.pixels for item in batch])
    watch()
    rows = []
    for item, saliency_map in zip(batch, maps, strict=True):
        saliency = encode_saliency(saliency_map, job.saliency_size)
        height, width = item.decoded.pixels.shape[:2]
        row = writer.add(
            NewSample(
                key=sample_key(item.image.source),
                image=item.decoded.stored_bytes,
                image_ext=item.decoded.ext,
                saliency=saliency,
                source=item.image.source,
                width=width,
                height=height,
                label=item.image.label,
                sha256=item.sha256,
            )
        )
        statistics = map_statistics(decode_saliency(saliency))
        row["saliency_mean"] = statistics.mean
        row["saliency_std"] = statistics.std
        row["foreground_share"] = statistics.foreground_share
        rows.append(row)
    return rows


def _read_source(root: Path, image: SourceImage) -> bytes:
    path = os.path.join(os.fsencode(root), image.path)
    for pause in (*READ_PAUSES, None):
        try:
            with open(path, "rb") as file:
                data = file.read()
            break
        except FileNotFoundError as error:
            raise InputError(f"{image.source} has vanished from {root} since it was listed") from (
                error
            )
        except OSError as error:
            if pause is None:
                raise InputError(
                    f"{image.source} cannot be read: {error.strerror or error} "
                    f"({1 + len(READ_PAUSES)} tries)"
                ) from error
            time.sleep(pause)
    if len(data) != image.num_bytes:
        raise InputError(
            f"{image.source} has {len(data)} bytes instead of the {image.num_bytes} listed: "
            "is something still writing it?"
        )
    return data


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what C libraries print about damaged images: the reason is on the rejected list."""
    keep = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(keep, 2)
        os.close(keep)
