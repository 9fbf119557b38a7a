"""Tars that any WebDataset reader opens, the same bytes for the same samples, read by offset."""

import hashlib
import json
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

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
from pipeline.shardset.schema import (
    DATASET_FILE,
    manifest_file,
    sample_key,
    shard_file,
    shard_name,
)
from pipeline.shardset.writer import ShardWriter
from pipeline.storage.storage import open_store
from tests.picture_folders import contents
from tests.shard_sets import PNGS, damage_images, write_shard_set

NAME = "shard-000000"


def source_of(number: int) -> str:
    return f"class_{number % 3}/picture {number}.jpg"


def key_of(number: int) -> str:
    return sample_key(source_of(number))


def image_of(number: int) -> bytes:
    return f"image {number}".encode() * (number + 1)


def saliency_of(number: int) -> bytes:
    return f"saliency {number}".encode()


def about(number: int, label: int | None) -> dict[str, Any]:
    digest = hashlib.sha256(source_of(number).encode()).hexdigest()
    size = {"width": 10 + number, "height": 20}
    return {"source": source_of(number), **size, "label": label, "sha256": digest}


def add_to(writer: ShardWriter, number: int, labelled: bool) -> dict[str, Any]:
    described = about(number, number % 3 if labelled else None)
    return writer.add(image_of(number), "jpg", saliency_of(number), described)


def write_set(root: Path, sizes: tuple[int, ...], labelled: bool = True) -> DatasetInfo:
    shards: list[ShardInfo] = []
    numbers = iter(range(sum(sizes)))
    statistics = {"saliency_mean": 0.5, "saliency_std": 0.0, "foreground_share": 1.0}
    for size in sizes:
        name = shard_name(len(shards))
        with open_store(root).new_file(shard_file(name)) as file:
            writer = ShardWriter(file, name)
            rows = [add_to(writer, n, labelled) | statistics for n in islice(numbers, size)]
            shards.append(writer.finish())
        write_rejected(root, name, [])
        record = ShardRecord(shard=shards[-1], plan_digest="digest", num_rejected=0)
        write_manifest(root, record, rows)
        assert read_record(root, name) == record
    info = DatasetInfo(
        schema_version=1,
        shards=tuple(shards),
        class_names=("a", "b", "c") if labelled else (),
        saliency={"source": "uniform"},
        saliency_size=56,
        plan_digest="digest",
        num_rejected=0,
        versions={"numpy": np.__version__},
    )
    write_dataset_info(root, info)
    return info


def test_the_tar_and_the_offsets_are_what_tarfile_reads(tmp_path: Path) -> None:
    (shard,) = write_set(tmp_path, (4,)).shards
    data = (tmp_path / shard_file(NAME)).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert shard == ShardInfo(name=NAME, num_images=4, num_bytes=len(data), sha256=digest)
    assert len(data) % tarfile.RECORDSIZE == 0
    with tarfile.open(tmp_path / shard_file(NAME)) as tar:
        members = tar.getmembers()
    owners = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members}
    assert owners == {(0, 0, 0, "salmask", "salmask", 0o644)}
    spans = {m.name: (m.offset_data, m.size) for m in members}
    wanted: dict[str, bytes] = {}
    for number, row in enumerate(read_manifest(tmp_path, NAME).to_pylist()):
        described, key = about(number, number % 3), key_of(number)
        wanted |= {
            f"{key}.jpg": image_of(number),
            f"{key}.saliency.png": saliency_of(number),
            f"{key}.json": json.dumps(described, sort_keys=True).encode(),
            f"{key}.cls": str(number % 3).encode(),
        }
        for column, suffix in (("image", "jpg"), ("saliency", "saliency.png"), ("json", "json")):
            span = row[f"{column}_offset"], row[f"{column}_length"]
            assert span == spans[f"{key}.{suffix}"]
        assert row.items() >= (described | {"key": key, "shard": NAME, "index": number}).items()
    found = {name: data[start : start + length] for name, (start, length) in spans.items()}
    assert list(found.items()) == list(wanted.items())  # in this order


def test_the_same_samples_give_the_same_bytes_and_an_error_changes_none(tmp_path: Path) -> None:
    assert write_set(tmp_path / "a", (3, 2)) == write_set(tmp_path / "b", (3, 2))
    before = contents(tmp_path / "a")
    assert before == contents(tmp_path / "b")

    def fail() -> None:
        with open_store(tmp_path / "a").new_file(shard_file(NAME)) as file:
            add_to(ShardWriter(file, NAME), 9, labelled=False)
            raise OSError("disk is gone")

    with pytest.raises(OSError, match="disk is gone"):
        fail()
    assert contents(tmp_path / "a") == before


@pytest.mark.parametrize("labelled", [True, False])
def test_samples_are_numbered_shard_after_shard(tmp_path: Path, labelled: bool) -> None:
    info = write_set(tmp_path, (3, 0, 4, 1), labelled)
    reader = ShardSetReader(tmp_path, load_dataset_info(tmp_path))
    assert reader.info == info
    assert (reader.num_samples, reader.shard_sizes) == (8, (3, 0, 4, 1))
    labels = [(n % 3 if labelled else -1) for n in range(8)]
    assert reader.labels().tolist() == labels
    for number in (7, 0, 3, 2, 6):
        found = reader.read(number)
        assert {name: getattr(found, name) for name in found.__dataclass_fields__} == {
            "key": key_of(number),
            "shard": shard_name([0, 0, 0, 2, 2, 2, 2, 3][number]),
            "image": image_of(number),
            "saliency": saliency_of(number),
            "label": labels[number],
        }
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
        return [n for n in numbers if reader.read(n).image != image_of(n)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_all, range(4))) == [[]] * 4
    assert reader._open.cache_info().currsize <= 2


def test_damage_is_named_by_shard_and_key(tmp_path: Path) -> None:
    info = write_set(tmp_path, (3, 3))
    check_shards(tmp_path, info)
    path = tmp_path / shard_file("shard-000001")
    data, key = path.read_bytes(), key_of(5)
    for damaged, words, of_set in (
        (data[:8000], "bytes are there", "damaged"),
        (bytes(len(data)), "other bytes", ""),
        (None, "No such file", "missing"),
    ):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with pytest.raises(DamagedSample, match=rf"{key} in .*shard-000001.*{words}"):
            ShardSetReader(tmp_path, info).read(5)
        if of_set:
            with pytest.raises(InputError, match=rf"shard-000001.*{of_set}"):
                check_shards(tmp_path, info)


def test_an_image_or_a_map_that_cannot_be_decoded_is_a_damaged_sample(tmp_path: Path) -> None:
    info = write_shard_set(tmp_path, num_images=3)
    reader = ShardSetReader(tmp_path, info)
    image, saliency = reader.read_pixels(2)
    assert (image.ndim, saliency.shape, saliency.max()) == (3, (56, 56), 255)
    assert np.array_equal(reader.read_image(2), image)
    assert np.array_equal(reader.read_map(2), saliency)
    damage_images(tmp_path, 0, 1)
    damage_images(tmp_path, 0, 2, PNGS)
    for number, words in ((0, r"\((?!its saliency)"), (1, r"\(its saliency map: ")):
        with pytest.raises(DamagedSample, match=f"is damaged {words}"):
            reader.read_pixels(number)
        with pytest.raises(DamagedSample, match=r"\(its saliency map: .*--on-damaged skip"):
            reader.read_map(number)
    assert reader.read_image(1).ndim == 3, "an image is whole whose map is damaged"
    with pytest.raises(DamagedSample):
        reader.read_image(0)


def test_manifests_that_do_not_fit_are_named(tmp_path: Path) -> None:
    info = write_set(tmp_path, (2, 1))
    first, second = (tmp_path / manifest_file(shard.name) for shard in info.shards)
    second.write_bytes(first.read_bytes())
    reader = ShardSetReader(tmp_path, info)
    with pytest.raises(InputError, match=r"shard-000001 has 2 rows, dataset\.json says 1"):
        reader.read(2)
    with pytest.raises(InputError, match=r"the manifests have 4 rows, dataset\.json 3"):
        reader.labels()
    second.write_bytes(b"PAR1 no")
    assert read_record(tmp_path, "shard-000001") is None
    second.unlink()
    assert read_record(tmp_path, "shard-000001") is None
    with pytest.raises(InputError, match=r"manifest.*shard-000001.*missing"):
        check_shards(tmp_path, info)
    with pytest.raises(InputError, match=r"manifest.*shard-000001"):
        reader.labels()


def test_a_set_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_dataset_info(tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"dataset\.json is missing \(run jobs/precompute\.py with"
    ):
        load_dataset_info(tmp_path)
    (tmp_path / "kind").mkdir()
    (tmp_path / "kind" / "a.JPG").write_bytes(b"")
    with pytest.raises(InputError, match=r"is missing, but there are images: make shards of them"):
        load_dataset_info(tmp_path)
    (tmp_path / "kind" / "a.JPG").rename(tmp_path / "kind" / "a.tar")
    with pytest.raises(InputError, match=r"run jobs/precompute\.py with"):
        load_dataset_info(tmp_path)
    with pytest.raises(InputError, match=r"is missing, but there are images: make shards of them"):
        load_dataset_info(tmp_path / "kind")
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(InputError, match="is a run, not a shard set"):
        load_dataset_info(tmp_path)
    write_set(tmp_path, (1,))
    path = tmp_path / DATASET_FILE
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "schema_version": 99}))
    with pytest.raises(InputError, match=r"version 99.*version 1"):
        load_dataset_info(tmp_path)
    for text in ("{", "[]", '{"schema_version": 1}', json.dumps({**fields, "shards": [{}]})):
        path.write_text(text)
        with pytest.raises(InputError, match=r"damaged .*: delete it and run jobs/precompute"):
            load_dataset_info(tmp_path)
