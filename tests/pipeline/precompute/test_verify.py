"""Whatever is done to a shard set, reading it back names it."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.images.codecs import encode_saliency
from pipeline.precompute import verify
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.verify import VerifyConfig, verify_set
from pipeline.precompute.verify_shard import verify_shard
from pipeline.shardset.schema import (
    manifest_path,
    rejected_path,
    sample_key,
    shard_path,
)
from tests.damaged_sets import (
    FIRST,
    SECOND,
    another_shard_twice,
    drop_row,
    edit_dataset,
    edit_members,
    edit_row,
    empty_rejected,
    flip,
    only,
    reject_without_reason,
    rewrite_tar,
    stray_plan_row,
)
from tests.deadly import DeadlyStore
from tests.precompute_here import precompute_here


def make_set(root: Path) -> None:
    """A complete set of two shards of four images and one rejected, made without Ray."""
    data = root / "data"
    for number in range(7):
        folder = data / f"class_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24 + number, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), pixels)
    (data / "class_1" / "bad.png").write_bytes(b"no picture")
    config = PrecomputeConfig(
        data=data,
        out=root / "set",
        saliency="centre",
        saliency_size=8,
        shard_images=4,
        max_rejected_fraction=0.5,
    )
    precompute_here(config)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    make_set(root)
    return root / "set"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "set")
    return tmp_path / "set"


def test_a_whole_set_has_no_problem(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*")}
    assert verify_set(whole) == []
    assert "2 shards, 7 images, 1 rejected" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*")}


def test_a_report_beside_the_set_is_no_problem(copy: Path) -> None:
    (copy / "report.html").write_text("a page")
    assert verify_set(copy) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda r: shard_path(r, FIRST).unlink(), "shards/shard-000000.tar is missing"),
        (lambda r: manifest_path(r, SECOND).unlink(), "manifest/shard-000001.parquet is missing"),
        (lambda r: rejected_path(r, FIRST).unlink(), "rejected/shard-000000.parquet is missing"),
        (lambda r: (r / "dataset.json").unlink(), "dataset.json is missing"),
        (lambda r: (r / "dataset.json").write_text("{"), "dataset.json is damaged"),
        (lambda r: (r / "plan.json").unlink(), r"plan\.json is missing"),
        (lambda r: (r / "plan.arrow").write_bytes(b"x"), "the plan cannot be read"),
        (lambda r: flip(shard_path(r, FIRST), 700), "has another checksum"),
        (lambda r: flip(shard_path(r, FIRST), -1), "has another checksum"),
        (lambda r: shard_path(r, FIRST).write_bytes(b"x"), "has 1 bytes, dataset.json says"),
        (lambda r: manifest_path(r, FIRST).write_bytes(b"PAR1"), "is no parquet file"),
        (lambda r: rejected_path(r, FIRST).write_bytes(b""), "is no parquet file"),
        (lambda r: shutil.copy(rejected_path(r, FIRST), manifest_path(r, FIRST)), "other columns"),
        (edit_members(only(".png", b"no picture")), r"\.png: cannot be decoded"),
        (edit_members(only(".png", None)), r"\.png: is missing"),
        (edit_members(only(".json", b"{}")), r"\.json: says otherwise than the manifest"),
        (edit_members(only(".json", b"{")), r"\.json: Expecting"),
        (edit_members(only(".cls", b"7")), r"\.cls: is not label \d"),
        (edit_members(only(".cls", None)), r"\.cls: is missing"),
        (edit_members(only(".saliency.png", b"")), r"\.saliency\.png: empty file"),
        (
            edit_members(only(".saliency.png", encode_saliency(np.zeros((8, 8), np.float32), 8))),
            r"\.saliency\.png: is not the map that the manifest's statistics are of",
        ),
        (
            edit_members(only(".saliency.png", encode_saliency(np.zeros((8, 8), np.float32), 9))),
            r"\.saliency\.png: has 9 cells a side, not 8",
        ),
        (edit_members(lambda n, d: [(n, d), (n, d)]), "is there 2 times"),
        (edit_members(lambda n, d: [(n, d), (n + "x", d)]), "is in no row of the manifest"),
        (edit_members(lambda n, d: [(n, d + b" ")]), "lies elsewhere than the manifest says"),
        (edit_row(width=1), r"\.png: is \d+ x 20, not 1 x 20"),
        (edit_row(image_ext="jpg"), r"\.jpg: is missing"),
        (edit_row(image_ext="tif"), "tif is no image suffix"),
        (edit_row(label=2), "label 2, where there are 2 classes"),
        (edit_row(label=None), "label None, where there are 2 classes"),
        (edit_row(index=3), "is row 3 of shard-000000, not 1"),
        (edit_row(sha256="0"), r"\.json: says otherwise"),
        (edit_row(source="other.png"), "is not the key of other.png"),
        (edit_row(source="other.png"), "is planned, but in no shard"),
        (edit_row(image_offset=0), "lies elsewhere"),
        (edit_row(saliency_mean=0.9), "statistics"),
        (drop_row, "has 3 rows, its record says 4|has 2 rows, its record says 3"),
        (drop_row, "is in no row of the manifest"),
        (reject_without_reason, "class_1/bad.png has no reason"),
        (empty_rejected, r"rejected/shard-00000\d.parquet has 0 rows, the manifest says 1"),
        (empty_rejected, "class_1/bad.png is planned, but in no shard"),
        (edit_dataset(num_rejected=5), "num_rejected is 5, the lists have 1"),
        (edit_dataset(plan_digest="other"), "made by another plan"),
        (edit_dataset(class_names=[]), r"label \d, where there are 0 classes"),
        (edit_dataset(saliency_size=56), "has 8 cells a side, not 56"),
        (another_shard_twice, "an image is there 2 times: key .* in shard-000000, shard-000001"),
        (another_shard_twice, "its record of the shard is not that of dataset.json"),
        (stray_plan_row, "1 images of the shards and rejected lists are in no plan"),
        (
            lambda r: (r / "shards" / ".shard-000000.tar.01.tmp").touch(),
            r"shards/\.shard-000000\.tar\.01\.tmp was left by a run that was killed",
        ),
        (
            lambda r: shutil.copy(shard_path(r, FIRST), shard_path(r, "shard-000009")),
            "shards/shard-000009.tar belongs to no shard",
        ),
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
    monkeypatch.setattr(verify, "_pooled", lambda expected, count: map(verify_shard, expected))
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


def test_a_long_list_is_cut(copy: Path) -> None:
    rewrite_tar(copy, lambda name, data: [(f"other-{name}", data)])
    problems = verify_set(copy, processes=1)
    assert len(problems) == 21
    assert problems[-1].startswith("shard-000000: and ")


def test_keys_are_those_of_the_sources(copy: Path) -> None:
    row = pq.read_table(manifest_path(copy, FIRST)).to_pylist()[0]
    assert row["key"] == sample_key(row["source"])


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        verify_set(tmp_path / "nowhere")
    with pytest.raises(InputError, match="processes must be at least 0"):
        VerifyConfig(verify=tmp_path, processes=-1)
