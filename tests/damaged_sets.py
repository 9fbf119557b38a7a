"""Ways to damage a shard set, one file or one field at a time."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.shardset.manifest import load_dataset_info, write_dataset_info
from pipeline.shardset.schema import manifest_file, rejected_file, shard_file, shard_name

FIRST, SECOND = shard_name(0), shard_name(1)


def edit_manifest(root: Path, name: str, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    table = pq.read_table(root / manifest_file(name))
    rows = table.to_pylist()
    edit(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), root / manifest_file(name))


def edit_row(**changes: object) -> Callable[[Path], None]:
    return lambda root: edit_manifest(root, FIRST, lambda rows: rows[1].update(changes))


def edit_member(column: str, data: bytes) -> Callable[[Path], None]:
    """Other content for a member of a sample; dataset.json agrees with the tar."""

    def edit(root: Path) -> None:
        path = root / shard_file(FIRST)
        row = pq.read_table(root / manifest_file(FIRST)).to_pylist()[1]
        tar, start = path.read_bytes(), row[f"{column}_offset"]
        tar += tar[start - tarfile.BLOCKSIZE : start]
        edit_row(**{f"{column}_offset": len(tar), f"{column}_length": len(data)})(root)
        tar += data
        path.write_bytes(tar)
        info, digest = load_dataset_info(root), hashlib.sha256(tar).hexdigest()
        first = replace(info.shards[0], num_bytes=len(tar), sha256=digest)
        write_dataset_info(root, replace(info, shards=(first, *info.shards[1:])))

    return edit


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def empty_rejected(root: Path) -> None:
    for name in (FIRST, SECOND):
        table = pq.read_table(root / rejected_file(name))
        pq.write_table(table.slice(0, 0), root / rejected_file(name))


def edit_dataset(**changes: object) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def another_shard_twice(root: Path) -> None:
    """The second shard is the first under another name."""
    shutil.copy(root / shard_file(FIRST), root / shard_file(SECOND))
    shutil.copy(root / rejected_file(FIRST), root / rejected_file(SECOND))
    shutil.copy(root / manifest_file(FIRST), root / manifest_file(SECOND))
    edit_manifest(root, SECOND, lambda rows: [row.update(shard=SECOND) for row in rows])


def drop_row(root: Path) -> None:
    edit_manifest(root, FIRST, lambda rows: rows.pop())


def stray_plan_row(root: Path) -> None:
    path = root / "plan.arrow"
    with pa.ipc.open_file(io.BytesIO(path.read_bytes())) as reader:
        first, *others = (reader.get_batch(n) for n in range(reader.num_record_batches))
        with pa.ipc.new_file(path, reader.schema) as writer:
            for batch in (first.slice(1), *others):
                writer.write_batch(batch)
