"""Remove images from a finished shard set: bytes, names, keys and digests, wherever they are in it.

What is left is copied from the shards: the sources are not needed. removal.json has the names until
all is done, so that the same command goes on where an earlier one was killed; dataset.json is gone
meanwhile.
"""

import hashlib
import json
import tarfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from pipeline.core.errors import InputError, write_error
from pipeline.core.progress import track
from pipeline.precompute.amend import forget
from pipeline.precompute.history import read_history
from pipeline.precompute.plan import PlanInfo, read_plans, write_info
from pipeline.shardset import manifest
from pipeline.shardset.cache import default_cache_folder
from pipeline.shardset.schema import (
    DATASET_FILE,
    JSON_MEMBER,
    REMOVAL_FILE,
    REPORT_FILE,
    SALIENCY_MEMBER,
    sample_key,
    shard_file,
)
from pipeline.shardset.writer import ShardWriter
from pipeline.storage.storage import Place, open_store
from pipeline.storage.store import Store, printable

NUM_NAMED = 5
"""How many names that are not there a message has."""


@dataclass(frozen=True, kw_only=True)
class RemoveConfig:
    """Remove images from a finished shard set; nothing of them is left in it.

    Attributes:
        remove: Text file with an image a line: its name (relative to --data, as in the manifest),
            its key, or the sha256 of its file; -: they are read from standard input.
        out: Folder or bucket (s3://, gs://, az://) of the shard set.
        runs: Folder: the runs below it that trained on the set while it had such an image are
            listed.
    """

    remove: str | Path
    out: str | Path
    runs: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What is removed.

    Attributes:
        given: names, keys and digests, as they were given.
        sources: names of the images, and of those that had been rejected.
        digests: of the set while it had any of these images, as runs record it.
        dataset: what dataset.json had before.
    """

    given: list[str]
    sources: list[str]
    digests: list[str]
    dataset: dict[str, Any]


def read_names(lines: IO[bytes]) -> list[str]:
    """The lines of a list that are not empty, in the way that names are written in a manifest."""
    texts = (line.decode("utf-8-sig", "surrogateescape").rstrip("\r\n") for line in lines)
    return list(dict.fromkeys(printable(text) for text in texts if text.strip()))


def remove_images(place: Place, given: list[str]) -> Removal:
    """Remove images by name, key or sha256, and finish first what an earlier call has begun.

    Raises:
        InputError: one of them is not there, or no image would be left; nothing is written then.
            The set is not finished, a shard is damaged, or a file cannot be written.
    """
    out = open_store(place)
    try:
        with out.alone():
            if out.size(REMOVAL_FILE) is not None:
                removal = Removal(**json.loads(out.read(REMOVAL_FILE)))
            else:
                removal = _find(out, given)
                out.write(REMOVAL_FILE, json.dumps(asdict(removal)).encode())
                out.settle()
            _finish(out, removal)
    except OSError as error:
        raise write_error(out.url, error) from error
    others = [name for name in given if name not in removal.given]
    return remove_images(out, others) if others else removal


def _find(out: Store, given: list[str]) -> Removal:
    """Find the images, and look whether they can be removed."""
    info, plans = manifest.load_dataset_info(out), read_history(out).finished
    if not plans or plans != tuple(read_plans(out)):
        raise InputError(f"{out.url} has no plan, or an append that was begun: finish it first")
    wanted, missing = set(given), set(given)
    sources: list[str] = []
    num_left, first = 0, len(info.shards)
    for number, shard in enumerate(track(info.shards, "looking", len(info.shards), "shards")):
        columns = ["source", "key", "sha256"]
        stored = manifest.read_manifest(out, shard.name, columns).to_pylist()
        rejected = manifest.read_rejected(out, shard.name)["source"].to_pylist()
        names = {row["source"]: wanted.intersection(row.values()) for row in stored}
        names |= {name: wanted & {name, sample_key(name)} for name in rejected}
        found = [name for name, marks in names.items() if marks]
        missing.difference_update(*names.values())
        num_left += sum(not names[row["source"]] for row in stored)
        sources += found
        if found:
            first = min(first, number)
            with out.open(shard_file(shard.name)) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                    what = f"shard {out.where(shard_file(shard.name))} is damaged"
                    raise manifest.SetError(f"{what}: {manifest.AGAIN}")
    if missing:
        named = ", ".join(sorted(missing)[:NUM_NAMED]) + ", ..." * (len(missing) > NUM_NAMED)
        raise InputError(
            f"{len(missing)} of {len(given)} are no name, key or sha256 of an image in {out.url}: "
            f"{named}; nothing was removed"
        )
    if not num_left:
        raise InputError(f"no image would be left in {out.url}: remove the whole set yourself")
    had_them = [plan for plan in plans if plan.first_shard + plan.num_shards > first]
    return Removal(
        given=given,
        sources=sources,
        digests=[digest for plan in had_them for digest in (plan.digest, *plan.removals)],
        dataset=asdict(info),
    )


def _finish(out: Store, removal: Removal) -> None:
    """Remove what is not removed yet; it may be killed anywhere, and is then called again."""
    before = manifest.dataset_info(removal.dataset)
    out.remove(DATASET_FILE)
    out.sweep()
    gone, shards = set(removal.sources), before.shards
    tracked = track(shards, "removing", len(shards), "shards")
    records = [_clean_shard(out, shard.name, gone) for shard in tracked]
    plans: list[PlanInfo] = []
    sources = pa.array(removal.sources, pa.large_string())
    for generation, plan in enumerate(list(read_plans(out))):
        follows = plans[-1].set_digest if plans else ""
        plans.append(forget(out, plan, generation, sources, follows))
    num_rejected = sum(record.num_rejected for record in records)
    shards = tuple(record.shard for record in records)
    info = replace(before, shards=shards, num_rejected=num_rejected)
    if shards != before.shards:  # another set to those who trained on it
        parts = [before.plan_digest, *(plan.listing or plan.digest for plan in plans)]
        info = replace(info, plan_digest=hashlib.sha256(json.dumps(parts).encode()).hexdigest())
    if plans[-1].set_digest != info.plan_digest:
        last = replace(plans[-1], removals=(*plans[-1].removals, info.plan_digest))
        write_info(out, last, len(plans) - 1)
    out.remove(REPORT_FILE)  # it may show them
    for shard in {*before.shards} - {*shards} if out.is_remote else ():
        (default_cache_folder() / f"{shard.sha256}.tar").unlink(missing_ok=True)
    manifest.write_dataset_info(out, info)
    out.remove(REMOVAL_FILE)
    out.settle()


def _clean_shard(out: Store, name: str, gone: set[str]) -> manifest.ShardRecord:
    """Write a shard without some images, and its manifest last; the other members are copied."""
    record = manifest.read_record(out, name)
    rows = manifest.read_manifest(out, name).to_pylist()
    assert record is not None
    rejected = manifest.read_rejected(out, name).to_pylist()
    rejected = [row for row in rejected if row["source"] not in gone]
    kept = [row for row in rows if row["source"] not in gone]
    if len(kept) == len(rows) and len(rejected) == record.num_rejected:
        return record
    shard = record.shard
    if len(kept) < len(rows):
        shard = _copy(out, shard, {sample_key(source) for source in gone}, kept)
    record = replace(record, shard=shard, num_rejected=len(rejected))
    manifest.write_rejected(out, name, rejected)
    manifest.write_manifest(out, record, kept)
    return record


def _copy(
    out: Store, shard: manifest.ShardInfo, gone: set[str], kept: list[dict[str, Any]]
) -> manifest.ShardInfo:
    """Copy a shard without some keys, and write into the rows that are kept where it has them."""
    offsets: dict[str, int] = {}
    name = shard_file(shard.name)
    with (
        out.open(name) as file,
        tarfile.open(fileobj=file, mode="r:") as tar,
        out.new_file(name) as new,
    ):
        writer = ShardWriter(new, shard.name)
        for member in tar:
            if member.name.partition(".")[0] not in gone:
                head = member.offset_data - member.offset
                file.seek(member.offset)
                data = file.read(head + member.size + -member.size % tarfile.BLOCKSIZE)
                offsets[member.name] = writer.copy(data) + head
        info = writer.finish()
    for index, row in enumerate(kept):
        row["index"] = index
        suffixes = {"image": row["image_ext"], "saliency": SALIENCY_MEMBER, "json": JSON_MEMBER}
        for column, suffix in suffixes.items():
            row[f"{column}_offset"] = offsets[f"{row['key']}.{suffix}"]
    return replace(info, num_images=len(kept))
