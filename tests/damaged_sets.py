"""Ways to damage a shard set, one file or one field at a time."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.shardset.manifest import RECORD_KEY, load_dataset_info, write_dataset_info
from pipeline.shardset.schema import manifest_path, rejected_path, shard_name, shard_path

FIRST, SECOND = shard_name(0), shard_name(1)


def rewrite_tar(root: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> None:
    """Write the first shard's tar again with other members, and dataset.json as if it were so."""
    path = shard_path(root, FIRST)
    out = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            for name, data in change(member.name, file.read()):
                header = tarfile.TarInfo(name)
                header.size = len(data)
                new.addfile(header, io.BytesIO(data))
    path.write_bytes(out.getvalue())
    believe(root, FIRST)


def believe(root: Path, name: str) -> None:
    """Let dataset.json and the manifest's record have the tar's size and digest."""
    data = shard_path(root, name).read_bytes()
    info = load_dataset_info(root)
    digest = hashlib.sha256(data).hexdigest()
    shards = tuple(
        replace(s, num_bytes=len(data), sha256=digest) if s.name == name else s for s in info.shards
    )
    write_dataset_info(root, replace(info, shards=shards))
    record = {"shard": asdict(next(s for s in shards if s.name == name))}
    edit_manifest(root, name, lambda rows: None, record)


def edit_manifest(
    root: Path,
    name: str,
    edit: Callable[[list[dict[str, Any]]], object],
    record: dict[str, Any] | None = None,
) -> None:
    table = pq.read_table(manifest_path(root, name))
    rows = table.to_pylist()
    edit(rows)
    metadata = json.loads(table.schema.metadata[RECORD_KEY]) | (record or {})
    schema = table.schema.with_metadata({RECORD_KEY: json.dumps(metadata).encode()})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), manifest_path(root, name))


def edit_row(**changes: object) -> Callable[[Path], None]:
    return lambda root: edit_manifest(root, FIRST, lambda rows: rows[1].update(changes))


def edit_members(
    change: Callable[[str, bytes], list[tuple[str, bytes]]],
) -> Callable[[Path], None]:
    return lambda root: rewrite_tar(root, change)


def only(ending: str, data: bytes | None) -> Callable[[str, bytes], list[tuple[str, bytes]]]:
    """Other content for the members with this ending; None: without them."""

    def change(name: str, old: bytes) -> list[tuple[str, bytes]]:
        if not name.endswith(ending):
            return [(name, old)]
        return [] if data is None else [(name, data)]

    return change


def png(height: int, width: int) -> bytes:
    return bytes(cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1])


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def reject_without_reason(root: Path) -> None:
    for name in (FIRST, SECOND):
        table = pq.read_table(rejected_path(root, name))
        rows = [row | {"reason": ""} for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), rejected_path(root, name))


def empty_rejected(root: Path) -> None:
    for name in (FIRST, SECOND):
        table = pq.read_table(rejected_path(root, name))
        pq.write_table(table.slice(0, 0), rejected_path(root, name))


def edit_dataset(**changes: object) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def another_shard_twice(root: Path) -> None:
    """The second shard is the first under another name."""
    shutil.copy(shard_path(root, FIRST), shard_path(root, SECOND))
    shutil.copy(rejected_path(root, FIRST), rejected_path(root, SECOND))
    shutil.copy(manifest_path(root, FIRST), manifest_path(root, SECOND))
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
