"""Whatever is done to a shard set, reading it back names it."""

import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.images.codecs import encode_saliency
from pipeline.precompute import verify
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.precompute.verify import VerifyConfig, verify_set, verify_shard
from pipeline.shardset.manifest import load_dataset_info, read_manifest, write_dataset_info
from pipeline.shardset.schema import manifest_file, rejected_file, shard_file, shard_name
from pipeline.storage.storage import open_store
from tests.deadly import DeadlyStore
from tests.picture_folders import write_pictures
from training.report.shard_set_page import read_rows

FIRST, SECOND = shard_name(0), shard_name(1)
TAR = shard_file(FIRST)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete set of two shards, with seven images of three classes and a rejected one."""
    root = tmp_path_factory.mktemp("whole")
    write_pictures(root / "data", 7)
    (root / "data" / "class_1" / "bad.png").write_bytes(b"no picture")
    config = PrecomputeConfig(
        data=root / "data",
        out=root / "set",
        saliency="centre",
        saliency_size=8,
        shard_images=4,
        max_rejected_fraction=0.5,
    )
    run_precompute(config)
    return root / "set"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "set")
    return tmp_path / "set"


def test_a_whole_set_has_no_problem(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "report.html").write_text("a page may lie beside the set")
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    assert verify_set(copy) == []
    assert "2 shards, 7 images, 1 rejected" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in copy.rglob("*")}


def test_a_set_of_an_earlier_version_lacks_a_column(copy: Path, tmp_path: Path) -> None:
    """Without the separability of the maps it is whole, can be shown, and grows."""
    for path in (copy / "manifest").iterdir():
        table = pq.read_table(path)
        pq.write_table(table.drop_columns("separability"), path)
    assert verify_set(copy) == []
    assert read_manifest(copy, SECOND)["separability"].null_count == 4
    write_pictures(tmp_path / "more", 8)  # seven of them are there
    more = tmp_path / "more"
    config = PrecomputeConfig(data=more, out=copy, saliency="centre", append=True)
    info = run_precompute(replace(config, saliency_size=8, shard_images=4))
    assert (info.num_images, verify_set(copy)) == (8, [])
    found = read_rows(copy, info)["separability"]
    assert (found.null_count, found[7].as_py()) == (7, pytest.approx(0.75, abs=0.05))


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


def copy_over(root: Path, name: str, other: str) -> None:
    shutil.copy(root / name, root / other)


def flat_map(size: int) -> bytes:
    return encode_saliency(np.zeros((size, size), np.float32), size)


def picture(width: int, height: int) -> bytes:
    return bytes(cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda r: (r / TAR).unlink(), "shards/shard-000000.tar is missing"),
        (lambda r: (r / manifest_file(SECOND)).unlink(), "manifest .*shard-000001.parquet cannot"),
        (lambda r: (r / rejected_file(FIRST)).unlink(), "rejected images .*shard-000000.parquet"),
        (lambda r: (r / "dataset.json").unlink(), "dataset.json is missing"),
        (lambda r: (r / "plan.json").unlink(), r"plan\.json is missing"),
        (lambda r: (r / "plan.arrow").write_bytes(b"x"), "the plan cannot be read"),
        (lambda r: flip(r / TAR, 700), "has another checksum"),
        (lambda r: (r / TAR).write_bytes(b""), "another checksum than dataset.json says .0 bytes"),
        (lambda r: (r / rejected_file(FIRST)).write_bytes(b""), "rejected images .* cannot be"),
        (lambda r: copy_over(r, rejected_file(FIRST), manifest_file(FIRST)), "other columns"),
        (edit_member("image", b"no picture"), "cannot be decoded"),
        (edit_member("image", picture(9, 8)), r"image is 9 x 8, its \.json has another size"),
        (edit_member("json", b"{"), r"its \.json cannot be read: Expecting"),
        (edit_member("saliency", b""), "empty file|decode"),
        (edit_member("saliency", flat_map(8)), "not the one that the manifest's stat"),
        (edit_member("saliency", flat_map(9)), "has 9 cells a side, not 8"),
        (edit_row(width=1), r": width is \d+, the manifest says 1$"),
        (edit_row(label=3), "label 3, where there are 3 classes"),
        (edit_row(label=0), "label is 1, the manifest says 0"),
        (edit_row(index=3), ": index is 1, the manifest says 3"),
        (edit_row(source="other.png"), r": key is other-\w+, the manifest says"),
        (edit_row(source="other.png"), "is planned, but in no shard"),
        (edit_row(image_offset=0), "is not at image_offset"),
        (edit_row(image_ext="webp"), r"\.webp is not at image_offset"),
        (edit_row(saliency_mean=0.9), "not the one that the manifest's statistics are of"),
        (edit_row(saliency_std=0.9), "not the one that the manifest's statistics are of"),
        (edit_row(foreground_share=0.1), "not the one that the manifest's statistics are of"),
        (edit_row(separability=0.1), "not the one that the manifest's statistics are of"),
        (drop_row, "manifest of shard-000000 has 2 rows, dataset.json says 3"),
        (empty_rejected, "class_1/bad.png is planned, but in no shard"),
        (empty_rejected, "num_rejected is 1, the lists have 0"),
        (edit_dataset(num_rejected=5), "num_rejected is 5, the lists have 1"),
        (edit_dataset(plan_digest="other"), "dataset.json was made by another plan"),
        (edit_dataset(class_names=[]), r"label \d, where there are 0 classes"),
        (edit_dataset(saliency_size=56), "has 8 cells a side, not 56"),
        (another_shard_twice, "shard-000001.tar has another checksum than dataset.json says"),
        (another_shard_twice, r"class_\d/picture \d\.\w+ is there 2 times"),
        (stray_plan_row, "1 images of the shards and rejected lists are in no plan"),
        (
            lambda r: (r / "shards" / ".shard-000000.tar.01.tmp").touch(),
            r"shards/\.shard-000000\.tar\.01\.tmp was left by a run that was killed",
        ),
        (lambda r: copy_over(r, TAR, shard_file("shard-000009")), "belongs to no shard"),
        (lambda r: (r / "notes.txt").touch(), "notes.txt belongs to no shard"),
    ],
)
def test_what_is_wrong_is_named(
    copy: Path,
    damage: Callable[[Path], object],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # starting processes would take most of the time
    monkeypatch.setattr(
        verify,
        "_read_shards",
        lambda store, info, _: [verify_shard(store, s, info) for s in info.shards],
    )
    damage(copy)
    problems = verify_set(copy)
    assert any(re.search(words, problem) for problem in problems), problems
    assert all("\n" not in problem for problem in problems)


def test_a_shard_that_kills_the_reader_is_named(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    problems = verify_set(DeadlyStore(copy))
    assert problems[0] == "shards/shard-000001.tar kills the decoder"
    assert len([p for p in problems if "in no shard" in p]) == 4, "the other shard was read"
    assert capfd.readouterr().err == ""


def test_a_long_list_is_cut_and_bad_input_refused(copy: Path, tmp_path: Path) -> None:
    edit_manifest(copy, FIRST, lambda rows: rows.extend(rows * 7))
    info = load_dataset_info(copy)
    problems = verify_shard(open_store(copy), info.shards[0], info).problems
    # 21 rows more, each with another index, and their number
    assert len(problems) == 21
    assert problems[-1] == f"{FIRST}: and 2 more problems"
    with pytest.raises(InputError, match="no such folder"):
        verify_set(tmp_path / "nowhere")
    with pytest.raises(InputError, match="processes must be at least 0"):
        VerifyConfig(verify=tmp_path, processes=-1)
