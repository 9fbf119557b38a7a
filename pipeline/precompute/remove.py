"""Remove images from a finished shard set: bytes, names, keys and digests, wherever they are in it.

What is left is copied from the shards: the sources are not needed. removal.json has the names until
all is done, so that the same command goes on where an earlier one was killed; dataset.json is gone
meanwhile.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from pipeline.core.errors import InputError, write_error
from pipeline.core.progress import numbered, say, track
from pipeline.precompute.amend import forget
from pipeline.precompute.history import read_history
from pipeline.precompute.plan import PlanInfo, canonical, planned_shards, read_plans, write_info
from pipeline.shardset.cache import default_cache_folder
from pipeline.shardset.manifest import (
    AGAIN,
    DatasetInfo,
    SetError,
    ShardInfo,
    ShardRecord,
    check_shards,
    dataset_info,
    load_dataset_info,
    read_manifest,
    read_record,
    read_rejected,
    write_dataset_info,
    write_manifest,
    write_rejected,
)
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
        num_rejected: of them.
        digests: of the set while it had any of these images, as runs record it.
        dataset: what dataset.json had before.
    """

    given: tuple[str, ...]
    sources: tuple[str, ...]
    num_rejected: int
    digests: tuple[str, ...]
    dataset: dict[str, Any]


def read_names(lines: IO[bytes]) -> list[str]:
    """The lines of a list that are not empty, in the way that names are written in a manifest."""
    texts = (line.decode("utf-8-sig", "surrogateescape").rstrip("\r\n") for line in lines)
    return list(dict.fromkeys(printable(text) for text in texts if text.strip()))


def remove_images(place: Place, given: Sequence[str]) -> Removal:
    """Remove images by name, key or sha256, and finish first what an earlier call has begun.

    Raises:
        InputError: one of them is not there, or no image would be left; nothing is written then.
            The set is not finished, a shard is damaged, or a file cannot be written.
    """
    out = open_store(place)
    try:
        begun = _read_removal(out)
        if begun is not None:
            say(f"finishing the removal of {numbered(len(begun.sources), 'image')} begun before")
            _finish(out, begun)
            given = [name for name in given if name not in begun.given]
            if not given:
                return begun
        removal = _find(out, given)
        out.write(REMOVAL_FILE, json.dumps(asdict(removal)).encode())
        out.settle()
        _finish(out, removal)
    except OSError as error:
        raise write_error(out.url, error) from error
    return removal


def _read_removal(out: Store) -> Removal | None:
    try:
        fields = json.loads(out.read(REMOVAL_FILE))
    except FileNotFoundError:
        return None
    return Removal(**{n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()})


def _find(out: Store, given: Sequence[str]) -> Removal:
    """Find the images, and look whether they can be removed."""
    info, history = load_dataset_info(out), read_history(out)
    if not history.finished or history.finished != tuple(read_plans(out)):
        raise InputError(f"{out.url} has no plan, or an append that was begun: finish it first")
    check_shards(out, info)
    missing, wanted = set(given), set(given)
    sources: list[str] = []
    num_rejected = 0
    for shard in track(info.shards, "looking for them", len(info.shards), "shards"):
        stored = read_manifest(out, shard.name, ["source", "key", "sha256"]).to_pylist()
        rejected = [
            {"source": name, "key": sample_key(name), "sha256": ""}
            for name in read_rejected(out, shard.name)["source"].to_pylist()
        ]
        names = {row["source"]: {*row.values()} & wanted for row in (*stored, *rejected)}
        found = [name for name, marks in names.items() if marks]
        missing.difference_update(*names.values())
        num_rejected += len({*found} & {row["source"] for row in rejected})
        sources += found
        if found:
            _check_whole(out, shard)
    if missing:
        first = ", ".join(sorted(missing)[:NUM_NAMED]) + ", ..." * (len(missing) > NUM_NAMED)
        raise InputError(
            f"{len(missing)} of {len(given)} are no name, key or sha256 of an image in {out.url}: "
            f"{first}; nothing was removed"
        )
    if len(sources) - num_rejected == info.num_images:
        raise InputError(f"no image would be left in {out.url}: remove the whole set yourself")
    return Removal(
        given=tuple(given),
        sources=tuple(sources),
        num_rejected=num_rejected,
        digests=_digests_with(out, history.finished, sources),
        dataset=asdict(info),
    )


def _check_whole(out: Store, shard: ShardInfo) -> None:
    with out.open(shard_file(shard.name)) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            where = out.where(shard_file(shard.name))
            raise SetError(f"shard {where} is not what dataset.json says: {AGAIN}")


def _digests_with(out: Store, plans: Sequence[PlanInfo], sources: Sequence[str]) -> tuple[str, ...]:
    """Digests of the set from the first plan on that has one of the images."""
    wanted = set(sources)
    for first in range(len(plans)):
        shards = planned_shards(out, first)
        if any(not wanted.isdisjoint(shard.column("source").to_pylist()) for shard in shards):
            break
    return tuple(one for plan in plans[first:] for one in (plan.digest, *plan.removals))


def _finish(out: Store, removal: Removal) -> None:
    """Remove what is not removed yet; it may be killed anywhere, and is then called again."""
    before = dataset_info(removal.dataset)
    out.remove(DATASET_FILE)
    out.sweep()
    gone = set(removal.sources)
    for shard in track(before.shards, "removing", len(before.shards), "shards"):
        _clean_shard(out, shard.name, gone)
    sources = pa.array(removal.sources, pa.large_string())
    plans: list[PlanInfo] = []
    for generation, plan in enumerate(list(read_plans(out))):
        follows = plans[-1].set_digest if plans else ""
        plans.append(forget(out, plan, generation, sources, follows))
    records = list(_records(out, before))
    info = replace(
        before,
        shards=tuple(record.shard for record in records),
        num_rejected=sum(record.num_rejected for record in records),
    )
    if info.shards != before.shards:  # another set to those who trained on it
        parts = [before.plan_digest, *(plan.listing or plan.digest for plan in plans)]
        info = replace(info, plan_digest=hashlib.sha256(canonical(parts)).hexdigest())
    if plans[-1].set_digest != info.plan_digest:
        last = replace(plans[-1], removals=(*plans[-1].removals, info.plan_digest))
        write_info(out, last, len(plans) - 1)
    out.remove(REPORT_FILE)  # it may show them
    if out.is_remote:
        for shard in {*before.shards} - {*info.shards}:
            (default_cache_folder() / f"{shard.sha256}.tar").unlink(missing_ok=True)
    write_dataset_info(out, info)
    out.remove(REMOVAL_FILE)
    out.settle()


def _records(out: Store, info: DatasetInfo) -> Iterator[ShardRecord]:
    for shard in info.shards:
        record = read_record(out, shard.name)
        if record is None:
            raise SetError(f"the manifest of {shard.name} cannot be read: {AGAIN}")
        yield record


def _clean_shard(out: Store, name: str, gone: set[str]) -> None:
    """Write a shard without some images, and its manifest last; the other members are copied."""
    rejected = read_rejected(out, name).to_pylist()
    rows = read_manifest(out, name).to_pylist()
    kept = [row for row in rows if row["source"] not in gone]
    still_rejected = [row for row in rejected if row["source"] not in gone]
    record = read_record(out, name)
    assert record is not None
    if len(kept) == len(rows) and len(still_rejected) == record.num_rejected:
        return
    shard = record.shard
    if len(kept) < len(rows):
        shard = _copy(out, shard, {sample_key(source) for source in gone}, kept)
    write_rejected(out, name, still_rejected)
    write_manifest(out, replace(record, shard=shard, num_rejected=len(still_rejected)), kept)


def _copy(out: Store, shard: ShardInfo, keys: set[str], kept: list[dict[str, Any]]) -> ShardInfo:
    """Copy a shard without some keys, and say in the rows that are kept where it has them."""
    offsets: dict[str, int] = {}
    file_name = shard_file(shard.name)
    with (
        out.open(file_name) as file,
        tarfile.open(fileobj=file, mode="r:") as tar,
        out.new_file(file_name) as new,
    ):
        writer = ShardWriter(new, shard.name)
        for member in tar:
            if member.name.partition(".")[0] not in keys:
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
