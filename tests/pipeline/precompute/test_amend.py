"""Images that have changed since they were planned: noticed by their bytes, mended if rejected."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.precompute.amend import versions_file
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.precompute.verify import verify_set
from pipeline.shardset.manifest import read_manifest, read_rejected
from tests.picture_folders import contents, write_pictures

BROKEN = ("class_0/picture 0.jpg", "class_1/picture 1.png")


@pytest.fixture
def config(tmp_path: Path) -> PrecomputeConfig:
    """Ten pictures, not precomputed."""
    write_pictures(tmp_path / "data", 10)
    return PrecomputeConfig(
        data=tmp_path / "data", out=tmp_path / "out", shard_images=3, saliency="centre"
    )


@pytest.fixture
def broken(config: PrecomputeConfig, tmp_path: Path) -> PrecomputeConfig:
    """A finished set of the eight of them that can be used."""
    for name in BROKEN:
        path = tmp_path / "data" / name
        path.rename(tmp_path / path.name)
        path.write_bytes(b"<html>503</html>")
    config = replace(config, max_rejected_fraction=0.5)
    assert run_precompute(config).num_rejected == 2
    return config


def mend(tmp_path: Path, name: str) -> None:
    shutil.copy(tmp_path / Path(name).name, tmp_path / "data" / name)


def sources(out: Path, read: Callable[[Path, str], pa.Table]) -> list[str]:
    shards = sorted(path.stem for path in (out / "shards").iterdir())
    return sorted(source for shard in shards for source in read(out, shard)["source"].to_pylist())


def test_rejected_images_may_be_mended(broken: PrecomputeConfig, tmp_path: Path) -> None:
    """As the message says after too many rejections. Shards without them stay as they are."""
    out = tmp_path / "out"
    before = contents(out / "shards")
    touched = {name for name in before if set(read_rejected(out, name[:-4])["source"].to_pylist())}
    for name in BROKEN:
        mend(tmp_path, name)
    info = run_precompute(replace(broken, max_rejected_fraction=0.05))
    assert (info.num_images, info.num_rejected) == (10, 0)
    after = contents(out / "shards")
    assert {name for name in after if after[name] != before[name]} == touched
    assert verify_set(out) == []
    whole = contents(out)
    assert run_precompute(broken) == info
    assert contents(out) == whole
    fresh = replace(broken, out=tmp_path / "fresh")
    run_precompute(fresh)
    assert contents(tmp_path / "fresh" / "shards") == after  # as if it had been so from the start
    (tmp_path / "data" / BROKEN[0]).write_bytes(b"<html>503</html>")  # it is in the set now
    with pytest.raises(InputError, match=r"picture 0\.jpg: \d+ -> 16 bytes"):
        run_precompute(broken)


def test_rejected_images_may_be_removed(broken: PrecomputeConfig, tmp_path: Path) -> None:
    for name in BROKEN:
        (tmp_path / "data" / name).unlink()
    info = run_precompute(broken)
    assert (info.num_images, info.num_rejected) == (8, 0)
    assert sources(tmp_path / "out", read_rejected) == []
    assert verify_set(tmp_path / "out") == []


def test_an_append_may_mend_what_was_rejected(broken: PrecomputeConfig, tmp_path: Path) -> None:
    mend(tmp_path, BROKEN[0])
    (tmp_path / "data" / BROKEN[1]).unlink()
    shutil.copy(tmp_path / "picture 1.png", tmp_path / "data" / "class_1" / "new.png")
    with pytest.raises(InputError, match=r"new\.png is new\).*--append"):
        run_precompute(broken)
    info = run_precompute(replace(broken, append=True))
    assert (info.num_images, info.num_rejected) == (10, 0)
    assert verify_set(tmp_path / "out") == []
    whole = contents(tmp_path / "out")
    assert run_precompute(replace(broken, append=True)) == info
    assert contents(tmp_path / "out") == whole


def test_a_shard_cannot_be_mended_from_a_part_of_its_images(
    broken: PrecomputeConfig, tmp_path: Path
) -> None:
    part = tmp_path / "part" / "class_0"
    part.mkdir(parents=True)
    shutil.copy(tmp_path / "picture 0.jpg", part)
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=r"picture 0\.jpg was rejected and has changed"):
        run_precompute(replace(broken, data=tmp_path / "part", append=True))
    assert contents(tmp_path / "out") == before


def test_a_kill_while_a_plan_is_amended_costs_nothing(
    broken: PrecomputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mend(tmp_path, BROKEN[0])
    (tmp_path / "data" / BROKEN[1]).unlink()
    shutil.copytree(tmp_path / "out", tmp_path / "undisturbed")
    run_precompute(replace(broken, out=tmp_path / "undisturbed"))
    for step in ("write_rows", "write_versions", "write_info"):
        with monkeypatch.context() as patch:
            patch.setattr(f"pipeline.precompute.amend.{step}", killed)
            with pytest.raises(KeyboardInterrupt):
                run_precompute(broken)
        assert not (tmp_path / "out" / "dataset.json").exists()
    run_precompute(broken)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def killed(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("append", [False, True])
def test_other_bytes_of_the_same_size_are_noticed(
    config: PrecomputeConfig, tmp_path: Path, append: bool
) -> None:
    run_precompute(config)
    config = replace(config, append=append)
    before = contents(tmp_path / "out")
    path = tmp_path / "data" / "class_1" / "picture 1.png"
    data, about = bytearray(path.read_bytes()), path.stat()
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))  # the same size and time
    words = r"picture 1\.png (has other bytes|is in the set with other bytes)"
    with pytest.raises(InputError, match=words):
        run_precompute(config)
    assert contents(tmp_path / "out") == before
    data[-20] ^= 1
    path.write_bytes(data)
    run_precompute(config)


def test_a_copy_of_the_images_is_read_once(
    config: PrecomputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_precompute(config)
    (tmp_path / "data").rename(tmp_path / "moved")
    config = replace(config, data=tmp_path / "moved")
    before = contents(tmp_path / "out")
    run_precompute(config)
    monkeypatch.setattr("pipeline.precompute.amend.read_images", killed)
    run_precompute(config)
    assert contents(tmp_path / "out") == before
    (tmp_path / "moved").rename(tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        run_precompute(replace(config, data=tmp_path / "again"))


def test_another_container_of_the_same_name(tmp_path: Path) -> None:
    """Days of camera frames, each in a folder of its own: nothing but the bytes differs."""
    pictures = [path.read_bytes() for path in frames(tmp_path / "frames", 8)]
    for day, some in (("monday", pictures[:4]), ("tuesday", pictures[4:])):
        (tmp_path / day).mkdir()
        pq.write_table(pa.table({"image": some}), tmp_path / day / "train-00000.parquet")
    config = PrecomputeConfig(
        data=tmp_path / "monday" / "train-00000.parquet", out=tmp_path / "out", saliency="centre"
    )
    run_precompute(config)
    tuesday = replace(config, data=tmp_path / "tuesday" / "train-00000.parquet")
    for append, words in ((True, "is in the set with other bytes"), (False, "has other bytes")):
        with pytest.raises(InputError, match=rf"train-00000\.parquet/000000000 {words}"):
            run_precompute(replace(tuesday, append=append))
    (tmp_path / "tuesday" / "train-00000.parquet").rename(tmp_path / "tuesday" / "more.parquet")
    more = replace(tuesday, data=tmp_path / "tuesday" / "more.parquet", append=True)
    assert run_precompute(more).num_images == 8


def frames(folder: Path, count: int) -> list[Path]:
    write_pictures(folder, count)
    return sorted(folder.rglob("*.*"))


def test_sets_of_earlier_programs_are_read(config: PrecomputeConfig, tmp_path: Path) -> None:
    """They have no versions: nothing tells whether a file of the same size is as it was."""
    info = run_precompute(config)
    (tmp_path / "out" / versions_file(0)).unlink()
    assert run_precompute(config) == info
    assert run_precompute(replace(config, append=True)) == info
    assert sources(tmp_path / "out", read_manifest) == sorted(
        str(path.relative_to(tmp_path / "data")) for path in (tmp_path / "data").rglob("*.*")
    )


def test_amending_keeps_the_digest(broken: PrecomputeConfig, tmp_path: Path) -> None:
    before = (tmp_path / "out" / "dataset.json").read_text()
    mend(tmp_path, BROKEN[0])
    run_precompute(broken)
    digest = '"plan_digest": "'
    after = (tmp_path / "out" / "dataset.json").read_text()
    assert before.partition(digest)[2][:64] == after.partition(digest)[2][:64]
