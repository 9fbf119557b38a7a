"""Decide which image goes into which shard, from the listing alone, and digest the decision.

Files are ordered by a hash of their source: every shard is a random sample of the classes, and
neither the order of a listing nor the number of processes changes anything. Containers keep their
order, so that they are read sequentially.

Everything is arrow and numpy, part by part (`Rows`): a hundred million images fit in 5 GiB.

Beside the shards a plan is plan.json and plan.arrow, the plan of the first append plan-001.*, and
so on. plan.arrow has one record batch per shard, so that a job reads only its own rows. (Parquet
with a row group per shard takes a footer of megabytes and a second to open at 40,000 shards.)
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import SetError
from pipeline.shardset.schema import PLAN_FILE, sample_key
from pipeline.sources.listing import PLAN_SCHEMA, Collected, planned
from pipeline.sources.rows import Rows, key_hashes, source_hashes
from pipeline.storage.store import Store, StoreError

NUMBERS = ("offset", "length", "num_bytes", "label", "mask_offset", "mask_bytes")
DIGEST_ROWS = 1 << 16
PLAIN = bytes(byte for byte in range(32, 127) if byte not in b'"\\')
"""Bytes that json does not escape."""
NOT_SAID = (("listing", ""), ("pixels", None), ("removals", ()))
"""Left out of plan.json."""


@dataclass(frozen=True)
class PlanInfo:
    """A plan without its rows.

    Attributes:
        digest: of everything that decides what the shards contain.
        parameters: settings, nested at most once; json types.
        class_names: a label is an index into them.
        first_shard: its number.
        listing: digest of the plan that the images would have as they are listed now, where
            rejected ones have changed (`pipeline.precompute.amend`) or images were removed; empty:
            `digest`.
        removals: digests of the set after each removal of images from it, if this is its last plan.
        pixels: the fields of the set's `PixelFormat`, once a first pass has found them; None: there
            was none, since all images are 8-bit.
    """

    digest: str
    parameters: dict[str, object]
    class_names: tuple[str, ...]
    num_images: int
    num_shards: int
    first_shard: int
    listing: str = ""
    pixels: dict[str, Any] | None = None
    removals: tuple[str, ...] = ()

    @property
    def set_digest(self) -> str:
        """What dataset.json has for `plan_digest`: of the set whose last plan this is."""
        return self.removals[-1] if self.removals else self.digest


@dataclass(frozen=True)
class Plan:
    """Everything that decides what the shards contain.

    Shard i has the rows from bounds[i] to bounds[i + 1].
    """

    info: PlanInfo
    bounds: NDArray[np.int64]
    rows: Rows

    def shards(self) -> Iterator[pa.RecordBatch]:
        """The rows of each shard, in order, of PLAN_SCHEMA."""
        return _cut(self.rows, np.diff(self.bounds).tolist())


def make_plan(
    images: Collected,
    parameters: Mapping[str, object],
    *,
    shard_images: int,
    shard_bytes: int,
    first_shard: int = 0,
    follows: str = "",
) -> Plan:
    """Distribute images over shards; InputError if two sources have one key.

    A shard closes at `shard_images` images or before it exceeds `shard_bytes` of source bytes
    (a larger image has a shard of its own; images of unknown size count as 0 bytes). `parameters`
    are all settings that decide the content; `follows` is the digest of the plan that these shards
    are appended to.
    """
    _check_keys(images.rows)
    sizes = np.empty(images.rows.num_rows, np.int64)
    for part, start, stop in images.rows.spans():
        sizes[start:stop] = np.maximum(part["num_bytes"].to_numpy(), 0)
    bounds = _shard_bounds(sizes, shard_images, shard_bytes)
    digest = sha256(_canonical([follows, dict(parameters), list(images.class_names)]))
    for batch in _cut(images.rows, [DIGEST_ROWS] * -(-len(sizes) // DIGEST_ROWS)):
        _update(digest, batch)
    info = PlanInfo(
        digest=digest.hexdigest(),
        parameters=dict(parameters),
        class_names=images.class_names,
        num_images=len(sizes),
        num_shards=len(bounds) - 1,
        first_shard=first_shard,
    )
    return Plan(info, bounds, images.rows)


def _check_keys(rows: Rows) -> None:
    """Refuse sources with one key, which ends in the hash of the source."""
    hashes = key_hashes(rows)
    hashes.sort()
    twice = hashes[1:][hashes[1:] == hashes[:-1]]
    known: dict[str, str] = {}
    for part in rows if len(twice) else ():
        sources = part["source"]
        suspects = sources.filter(pa.array(np.isin(source_hashes(sources, 8)[:, 0], twice)))
        for source in suspects.to_pylist():
            first = known.get(key := sample_key(source))
            if first == source:
                raise InputError(
                    f"{source!r} is listed twice: list it once (or two names are alike)"
                )
            if first is not None:
                raise InputError(f"{first!r} and {source!r} have the same key: rename one")
            known[key] = source


def _shard_bounds(
    sizes: NDArray[np.int64], shard_images: int, shard_bytes: int
) -> NDArray[np.int64]:
    ends = np.cumsum(sizes)
    bounds = [0]
    while bounds[-1] < len(sizes):
        start = bounds[-1]
        before = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, before + shard_bytes, side="right"))
        bounds.append(min(max(fitting, start + 1), start + shard_images, len(sizes)))
    return np.asarray(bounds, dtype=np.int64)


def _cut(rows: Rows, sizes: Iterable[int]) -> Iterator[pa.RecordBatch]:
    """All rows in batches of these sizes, or fewer in the last, with all columns of PLAN_SCHEMA."""
    parts, rest = map(planned, rows), planned(pa.table({}))
    for size in sizes:
        some, rest = [rest.slice(0, size)], rest.slice(size)
        missing = size - some[0].num_rows
        while missing and (part := next(parts, None)) is not None:
            some.append(part.slice(0, missing))
            rest, missing = part.slice(missing), missing - some[-1].num_rows
        yield pa.concat_batches(some)  # a slice would be written with bytes of its neighbours


def _update(digest: "hashlib._Hash", batch: pa.RecordBatch) -> None:
    digest.update(_canonical_texts(batch.column("source")))
    for name in ("uri", "mask", *NUMBERS):
        column = batch.column(name)
        if column.null_count == batch.num_rows:
            continue
        if name in NUMBERS:
            numbers = column.fill_null(-1).to_numpy(zero_copy_only=False)
            digest.update(name.encode() + numbers.astype("<i8").tobytes())
        else:
            values = [None if value is None else value.hex() for value in column.to_pylist()]
            digest.update(_canonical([name, values]))


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _canonical_texts(texts: pa.Array) -> bytes:
    """`_canonical` of a list of texts; faster where none of them has to be escaped."""
    listed = pa.ListArray.from_arrays([0, len(texts)], texts)
    separator = pa.scalar('","', texts.type)  # no constant: at import arrow would reserve 1 GiB
    joined: bytes = pc.binary_join(listed, separator)[0].as_buffer().to_pybytes()
    if joined.translate(None, PLAIN) == b'"' * (2 * len(texts) - 2):
        return b'["' + joined + b'"]\n'
    return _canonical(texts.to_pylist())


def plan_file(generation: int) -> str:
    """plan.json for the first plan of a set, plan-001.json for the first append."""
    stem, dot, suffix = PLAN_FILE.partition(".")
    return f"{stem}-{generation:03d}{dot}{suffix}" if generation else PLAN_FILE


def rows_file(generation: int) -> str:
    """The rows that belong to `plan_file`."""
    return plan_file(generation).removesuffix(".json") + ".arrow"


def write_plan(store: Store, plan: Plan, generation: int = 0) -> None:
    """Write the plan's rows, then its json, which declares the plan complete."""
    write_rows(store, plan.shards(), generation)
    write_info(store, plan.info, generation)


def write_rows(store: Store, shards: Iterable[pa.RecordBatch], generation: int) -> None:
    """Write the rows of each shard of a plan, of PLAN_SCHEMA."""
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with (
        store.new_file(rows_file(generation)) as file,
        pa.ipc.new_file(file, PLAN_SCHEMA, options=options) as writer,
    ):
        for shard in shards:
            writer.write_batch(shard)


def write_info(store: Store, info: PlanInfo, generation: int) -> None:
    """Write a plan without its rows."""
    fields = {name: value for name, value in asdict(info).items() if (name, value) not in NOT_SAID}
    text = json.dumps(fields, indent=1, sort_keys=True)
    store.write(plan_file(generation), text.encode() + b"\n")


def read_plan(store: Store, generation: int = 0) -> PlanInfo | None:
    """Read plan.json; None if there is none, SetError if it is damaged."""
    name = plan_file(generation)
    try:
        data = store.read(name)
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(data)
        fields["class_names"] = tuple(fields["class_names"])
        return PlanInfo(**{**fields, "removals": tuple(fields.get("removals", ()))})
    except (ValueError, KeyError, TypeError) as error:
        raise SetError(
            f"{store.where(name)} is damaged ({error!r}) or of another version: "
            "choose another --out"
        ) from error


def read_plans(store: Store) -> Iterator[PlanInfo]:
    """Read the plans of a set: the first one, and one more for each append."""
    for generation in count():
        plan = read_plan(store, generation)
        if plan is None:
            return
        yield plan


def planned_rows(store: Store, number: int, generation: int = 0) -> pa.RecordBatch:
    """Read the rows of a shard, of PLAN_SCHEMA, by its number in the plan, from 0.

    Raises:
        SetError: plan.arrow is missing or damaged.
    """
    with _open_rows(store, generation) as reader:
        return reader.get_batch(number)


def planned_shards(store: Store, generation: int = 0) -> Iterator[pa.RecordBatch]:
    """Read the rows of each shard of a plan; raises as `planned_rows`."""
    with _open_rows(store, generation) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


@contextmanager
def _open_rows(store: Store, generation: int) -> Iterator[Any]:
    where = store.where(rows_file(generation))
    try:
        with (
            store.open(rows_file(generation)) as file,
            pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(use_threads=False)) as reader,
        ):
            yield reader
    except FileNotFoundError as error:
        raise SetError(f"{where} is missing: choose another --out") from error
    except StoreError:
        raise
    except (pa.ArrowException, ValueError) as error:
        raise SetError(f"{where} is damaged ({error}): choose another --out") from error
