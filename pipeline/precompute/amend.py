"""Compare the images that are listed with those that a set was made of, and amend its plan.

An image whose file has another version than when it was planned (`Store.File`) is read, and its
digest compared with the manifest's: a copy or a touched file is the same image, other bytes under
an old name are not. Images that were rejected may have changed, or be gone: their shards are made
again.

The versions lie beside the plan, in an array file of its own, since they depend on the place of the
data: plan.versions, plan-001.versions and so on.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.progress import say
from pipeline.precompute.plan import (
    PlanInfo,
    make_plan,
    plan_file,
    planned_shards,
    write_info,
    write_rows,
)
from pipeline.shardset.manifest import SetError, read_manifest, read_rejected
from pipeline.shardset.schema import DATASET_FILE, manifest_file, shard_name
from pipeline.sources.listing import PLAN_SCHEMA, Collected, DataStore, planned
from pipeline.sources.reading import read_images
from pipeline.sources.rows import Rows, key_hashes, source_hashes
from pipeline.storage.store import Store

Int64 = NDArray[np.int64]
COMPARED = [name for name in PLAN_SCHEMA.names if name != "source"]


@dataclass(frozen=True)
class ShardDifference:
    """How the images of a planned shard differ from those that are listed now.

    Attributes:
        number: of the shard in its plan, from 0.
        rows: of PLAN_SCHEMA, as the plan should have them.
        versions: of these rows.
        changed: sources that are listed otherwise, or have other bytes.
        gone: sources that are not listed.
    """

    number: int
    rows: pa.RecordBatch
    versions: Int64
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def versions_file(generation: int) -> str:
    """The versions that belong to `plan_file`."""
    return plan_file(generation).removesuffix(".json") + ".versions"


def write_versions(store: Store, versions: Iterable[Int64], generation: int) -> None:
    """Write the versions of a plan's rows, in their order."""
    with store.new_file(versions_file(generation)) as file:
        for some in versions:
            file.write(some.astype("<i8").tobytes())


def read_versions(store: Store, generation: int) -> Int64 | None:
    """The versions of a plan's rows; None if an earlier program made the plan."""
    try:
        data = np.frombuffer(store.read(versions_file(generation)), "<i8")
        return data.astype(np.int64, copy=False)
    except (FileNotFoundError, ValueError):
        return None


def versions_of(rows: pa.Table) -> Int64:
    """The versions of listed images; 0 where there is none."""
    if "version" not in rows.column_names:
        return np.zeros(rows.num_rows, np.int64)
    return np.asarray(pc.fill_null(rows["version"], 0).to_numpy(), np.int64)


class Comparison:
    """Listed images, at least one, to compare the shards of plans with.

    `is_found` says which of them a shard has that was compared.
    """

    def __init__(self, out: Store, data: DataStore, listed: Rows) -> None:
        self._out, self._data, self._listed = out, data, listed
        hashes = key_hashes(listed)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        self.is_found = np.zeros(len(hashes), np.bool_)
        self._is_said = False

    def _find(self, shard: pa.RecordBatch) -> Int64:
        """The place in the listing of each row of a shard; -1 if it is not listed."""
        wanted = source_hashes(shard.column("source"), 8)[:, 0]
        at = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        places = np.where(self._hashes[at] == wanted, self._order[at], -1)
        self.is_found[places[places >= 0]] = True
        return places

    def differences(
        self, plan: PlanInfo, generation: int, *, bytes_only: bool = False
    ) -> Iterator[ShardDifference]:
        """The shards of a plan of which anything has changed, be it only the versions.

        With `bytes_only` it does not count that an image has another place, label or version.
        """
        before, start = read_versions(self._out, generation), 0
        for number, shard in enumerate(planned_shards(self._out, generation)):
            versions = before[start : start + shard.num_rows] if before is not None else None
            start += shard.num_rows
            if versions is None or len(versions) != shard.num_rows:
                versions = np.zeros(shard.num_rows, np.int64)  # not known
            name = shard_name(plan.first_shard + number)
            found = self._shard_difference(number, name, shard, versions, bytes_only)
            is_touched = not bytes_only and not np.array_equal(found.versions, versions)
            if found.changed or found.gone or is_touched:
                yield found

    def _shard_difference(
        self, number: int, name: str, shard: pa.RecordBatch, versions: Int64, bytes_only: bool
    ) -> ShardDifference:
        at = self._find(shard)
        is_listed = at >= 0
        kept, listed = shard.filter(pa.array(is_listed)), self._listed.take(at[is_listed])
        now, seen, found = planned(listed), versions[is_listed], versions_of(listed)
        differs = _differs(kept, now, ["num_bytes"] if bytes_only else COMPARED)
        is_other_file = (seen != found) & (seen != 0) & (found != 0)
        suspects = np.flatnonzero(is_other_file & ~differs)
        if len(suspects):
            rows = now.take(pa.array(suspects))
            differs[suspects] = [not same for same in self._same_bytes(name, rows)]
        gone = shard.column("source").filter(pa.array(~is_listed)).to_pylist()
        changed = kept.column("source").filter(pa.array(differs)).to_pylist()
        return ShardDifference(number, now, found, tuple(changed), tuple(gone))

    def _same_bytes(self, name: str, rows: pa.RecordBatch) -> Iterator[bool]:
        """Whether images have the digests of a shard's manifest; False for what is not there."""
        try:
            table = read_manifest(self._out, name, ["source", "sha256"])
        except SetError:  # the shard is made anew in any case
            yield from [True] * rows.num_rows
            return
        if not self._is_said:  # of many images it takes as long as reading them
            self._is_said = True
            say("files may have changed: comparing them with the digests of the set")
        pairs = zip(table["source"].to_pylist(), table["sha256"].to_pylist(), strict=True)
        known = dict(pairs)
        for image in read_images(self._data, rows):
            yield known.get(image.source) == image.sha256


def _differs(
    before: pa.RecordBatch, now: pa.RecordBatch, columns: Sequence[str]
) -> NDArray[np.bool_]:
    """Which rows differ in any of some columns; a size that is not known differs from none."""
    differs = np.zeros(before.num_rows, np.bool_)
    for name in columns:
        old, new = before.column(name), now.column(name)
        if name in ("num_bytes", "mask_bytes"):
            old, new = (pc.if_else(pc.less(size, 0), None, size) for size in (old, new))
            other = pc.fill_null(pc.not_equal(old, new), False)
        else:
            other = pc.or_kleene(
                pc.fill_null(pc.not_equal(old, new), False),
                pc.not_equal(old.is_null(), new.is_null()),
            )
        differs |= other.to_numpy(zero_copy_only=False)
    return differs


def first_unexpected(
    out: Store, plan: PlanInfo, differences: Sequence[ShardDifference]
) -> str | None:
    """The first source that has changed, or is gone, though its image was not rejected."""
    for difference in differences:
        sources = {*difference.changed, *difference.gone}
        if sources:
            sources -= rejected_sources(out, shard_name(plan.first_shard + difference.number))
        if sources:
            return min(sources)
    return None


def rejected_sources(out: Store, shard: str) -> set[str]:
    """The sources of the images that were rejected from a shard; empty if it is not made."""
    try:
        return set(read_rejected(out, shard)["source"].to_pylist())
    except SetError:
        return set()


def amend(
    out: Store, plan: PlanInfo, generation: int, differences: Sequence[ShardDifference], digest: str
) -> PlanInfo:
    """Write a plan as it is listed now; shards of which images have changed are to be made again.

    It may be killed anywhere: the next run finds the same differences, or fewer. The plan keeps the
    digest that it was begun with; `digest` is that of the plan that the listing would have now.
    """
    by_number = {difference.number: difference for difference in differences}
    broken = [d.number for d in differences if d.changed or d.gone]
    if broken:
        out.remove(DATASET_FILE)
    for number in broken:
        out.remove(manifest_file(shard_name(plan.first_shard + number)))
    before = read_versions(out, generation)
    versions: list[Int64] = []
    start = num_images = 0
    for number, shard in enumerate(planned_shards(out, generation)):
        old = np.zeros(shard.num_rows, np.int64)
        if before is not None and start + shard.num_rows <= len(before):
            old = before[start : start + shard.num_rows]
        start += shard.num_rows
        versions.append(by_number[number].versions if number in by_number else old)
        num_images += len(versions[-1])

    def rows() -> Iterator[pa.RecordBatch]:
        for number, shard in enumerate(planned_shards(out, generation)):
            yield by_number[number].rows if number in by_number else shard

    listing = "" if digest == plan.digest else digest
    amended = replace(plan, num_images=num_images, listing=listing)
    if broken:
        write_rows(out, rows(), generation)
    write_versions(out, versions, generation)
    if amended != plan:
        write_info(out, amended, generation)
    return amended


def forget(
    out: Store, plan: PlanInfo, generation: int, sources: pa.Array, follows: str
) -> PlanInfo:
    """Take images, by their sources, out of a plan; `follows` is as in `make_plan`.

    It may be killed anywhere: called again with the same sources it goes on.
    """
    shards = list(planned_shards(out, generation))
    kept = [pc.invert(pc.is_in(shard.column("source"), value_set=sources)) for shard in shards]
    left = [shard.filter(mask) for shard, mask in zip(shards, kept, strict=True)]
    rows = Rows([pa.Table.from_batches(left, PLAN_SCHEMA)])
    num_before = sum(shard.num_rows for shard in shards)
    if rows.num_rows < num_before:
        versions = read_versions(out, generation)
        if versions is not None and len(versions) == num_before:  # else they were written already
            is_kept = np.concatenate([mask.to_numpy(zero_copy_only=False) for mask in kept])
            write_versions(out, [versions[is_kept]], generation)
        write_rows(out, left, generation)
    if rows.num_rows == plan.num_images:
        return plan
    listed = Collected(rows, plan.class_names, "")
    most, given = 1 << 60, plan.parameters
    anew = make_plan(listed, given, shard_images=most, shard_bytes=most, follows=follows)
    plan = replace(plan, num_images=rows.num_rows, listing=anew.info.digest)
    write_info(out, plan, generation)
    return plan
