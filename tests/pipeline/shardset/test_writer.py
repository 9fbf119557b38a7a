"""Tars that any WebDataset reader opens, the same bytes for the same samples, read by offset."""

import hashlib
import json
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import DamagedSample, InputError
from pipeline.shardset import reader as shard_reader
from pipeline.shardset.manifest import (
    DatasetInfo,
    ShardInfo,
    ShardRecord,
    check_shards,
    load_dataset_info,
    read_manifest,
    read_record,
    write_dataset_info,
    write_manifest,
    write_rejected,
)
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import DATASET_FILE, manifest_path, sample_key, shard_name, shard_path
from pipeline.shardset.writer import NewSample, open_shard


def new_sample(number: int, label: int | None) -> NewSample:
    source = f"class_{number % 3}/picture {number}.jpg"
    return NewSample(
        key=sample_key(source),
        image=f"image {number}".encode() * (number + 1),
        image_ext="jpg",
        saliency=f"saliency {number}".encode(),
        source=source,
        width=10 + number,
        height=20,
        label=label,
        sha256=hashlib.sha256(source.encode()).hexdigest(),
    )


def write_set(root: Path, sizes: tuple[int, ...], labelled: bool = True) -> DatasetInfo:
    infos, number = [], 0
    for shard_number, size in enumerate(sizes):
        name, rows = shard_name(shard_number), []
        with open_shard(root, name) as writer:
            for _ in range(size):
                sample = new_sample(number, number % 3 if labelled else None)
                extra = {"saliency_mean": 0.5, "saliency_std": 0.1, "foreground_share": 0.7}
                rows.append({**writer.add(sample), **extra})
                number += 1
            shard = writer.finish()
        write_rejected(root, name, [])
        record = ShardRecord(shard=shard, plan_digest="digest", num_rejected=0)
        write_manifest(root, record, rows)
        assert read_record(root, name) == record
        infos.append(shard)
    info = DatasetInfo(
        schema_version=1,
        shards=tuple(infos),
        class_names=("a", "b", "c") if labelled else (),
        saliency={"source": "uniform"},
        saliency_size=56,
        plan_digest="digest",
        num_rejected=0,
        versions={"numpy": np.__version__},
    )
    write_dataset_info(root, info)
    return info


def test_the_tar_is_what_tarfile_reads(tmp_path: Path) -> None:
    info = write_set(tmp_path, (5,))
    path = shard_path(tmp_path, "shard-000000")
    data = path.read_bytes()
    assert info.shards == (
        ShardInfo(
            name="shard-000000",
            num_images=5,
            num_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        ),
    )
    assert len(data) % tarfile.RECORDSIZE == 0
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        key = sample_key("class_0/picture 0.jpg")
        assert [m.name for m in members[:4]] == [
            f"{key}.jpg",
            f"{key}.saliency.png",
            f"{key}.json",
            f"{key}.cls",
        ]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {
            (0, 0, 0, "salmask", 0o644)
        }
        about = tar.extractfile(members[2])
        assert about is not None
        text = about.read().decode()
        assert json.loads(text) == {
            "height": 20,
            "label": 0,
            "sha256": hashlib.sha256(b"class_0/picture 0.jpg").hexdigest(),
            "source": "class_0/picture 0.jpg",
            "width": 10,
        }
        assert text == json.dumps(json.loads(text), sort_keys=True)
        label = tar.extractfile(members[3])
        assert label is not None
        assert label.read() == b"0"


def test_offsets_are_those_of_the_members(tmp_path: Path) -> None:
    write_set(tmp_path, (4,))
    data = shard_path(tmp_path, "shard-000000").read_bytes()
    with tarfile.open(shard_path(tmp_path, "shard-000000")) as tar:
        by_name = {m.name: m for m in tar.getmembers()}
    for row in read_manifest(tmp_path, "shard-000000").to_pylist():
        for member, suffix in (("image", "jpg"), ("saliency", "saliency.png"), ("json", "json")):
            offset, length = row[f"{member}_offset"], row[f"{member}_length"]
            assert offset == by_name[f"{row['key']}.{suffix}"].offset_data
            assert length == by_name[f"{row['key']}.{suffix}"].size
        assert json.loads(data[row["json_offset"] :][: row["json_length"]])["label"] == row["label"]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_set(tmp_path / "a", (3, 2)), write_set(tmp_path / "b", (3, 2))
    assert first == second
    name = "shard-000001"
    assert shard_path(tmp_path / "a", name).read_bytes() == (
        shard_path(tmp_path / "b", name).read_bytes()
    )


def test_a_failed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    write_set(tmp_path, (2,))
    path = shard_path(tmp_path, "shard-000000")
    before = path.read_bytes()

    def fail() -> None:
        with open_shard(tmp_path, "shard-000000") as writer:
            writer.add(new_sample(9, None))
            raise OSError("disk is gone")

    with pytest.raises(OSError, match="disk is gone"):
        fail()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("labelled", [True, False])
def test_samples_are_numbered_shard_after_shard(tmp_path: Path, labelled: bool) -> None:
    info = write_set(tmp_path, (3, 0, 4, 1), labelled)
    reader = ShardSetReader(tmp_path, load_dataset_info(tmp_path))
    assert reader.info == info
    assert (reader.num_samples, reader.shard_sizes) == (8, (3, 0, 4, 1))
    assert reader.labels().tolist() == [(n % 3 if labelled else -1) for n in range(8)]
    for number in (7, 0, 3, 2, 6):
        wanted = new_sample(number, None)
        sample = reader.read(number)
        assert (sample.key, bytes(sample.image), bytes(sample.saliency)) == (
            wanted.key,
            wanted.image,
            wanted.saliency,
        )
        assert sample.label == (number % 3 if labelled else -1)
        assert sample.shard == f"shard-{[0, 0, 0, 2, 2, 2, 2, 3][number]:06d}"
        assert reader.read_saliency(number) == wanted.saliency
    for number in (-1, 8):
        with pytest.raises(IndexError):
            reader.read(number)


def test_the_reader_travels_and_works_in_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_reader, "OPEN_SHARDS", 2)
    monkeypatch.setattr(shard_reader, "INDEXED_SHARDS", 2)
    info = write_set(tmp_path, (2,) * 8)
    first = ShardSetReader(tmp_path, info)
    first.read(0)
    reader = pickle.loads(pickle.dumps(first))

    def read_all(seed: int) -> list[int]:
        numbers: list[int] = np.random.default_rng(seed).integers(0, 16, 200).tolist()
        return [n for n in numbers if reader.read(n).image != new_sample(n, None).image]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_all, range(4))) == [[]] * 4
    assert reader._open.cache_info().currsize <= 2


def test_damage_is_named_by_shard_and_key(tmp_path: Path) -> None:
    info = write_set(tmp_path, (3, 3))
    path = shard_path(tmp_path, "shard-000001")
    data = path.read_bytes()
    key = new_sample(5, None).key
    path.write_bytes(data[:8000])
    with pytest.raises(DamagedSample, match=rf"shard-000001.*{key}.*bytes are there"):
        ShardSetReader(tmp_path, info).read(5)
    with pytest.raises(InputError, match=r"shard-000001.*damaged"):
        check_shards(tmp_path, info)
    path.write_bytes(bytes(len(data)))
    with pytest.raises(DamagedSample, match=rf"shard-000001.*{key}.*other bytes"):
        ShardSetReader(tmp_path, info).read(5)
    path.unlink()
    with pytest.raises(DamagedSample, match=rf"shard-000001.*{key}.*No such file"):
        ShardSetReader(tmp_path, info).read(5)
    with pytest.raises(InputError, match=r"shard-000001.*missing"):
        check_shards(tmp_path, info)


def test_a_whole_set_passes_the_check(tmp_path: Path) -> None:
    info = write_set(tmp_path, (2, 1))
    check_shards(tmp_path, info)
    manifest_path(tmp_path, "shard-000001").unlink()
    with pytest.raises(InputError, match=r"manifest.*shard-000001.*missing"):
        check_shards(tmp_path, info)
    with pytest.raises(InputError, match=r"manifest.*shard-000001"):
        ShardSetReader(tmp_path, info).labels()


def test_a_set_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_dataset_info(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"dataset\.json is missing"):
        load_dataset_info(tmp_path)
    write_set(tmp_path, (1,))
    path = tmp_path / DATASET_FILE
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "schema_version": 99}))
    with pytest.raises(InputError, match=r"version 99.*version 1"):
        load_dataset_info(tmp_path)
    for text in ("{", "[]", '{"schema_version": 1}', json.dumps({**fields, "shards": [{}]})):
        path.write_text(text)
        with pytest.raises(InputError, match="damaged"):
            load_dataset_info(tmp_path)


def test_an_unreadable_manifest_has_no_record(tmp_path: Path) -> None:
    write_set(tmp_path, (1,))
    assert read_record(tmp_path, "shard-000009") is None
    manifest_path(tmp_path, "shard-000000").write_bytes(b"PAR1 no")
    assert read_record(tmp_path, "shard-000000") is None
