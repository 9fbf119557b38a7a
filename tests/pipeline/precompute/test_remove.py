"""Images removed from a set: nothing of them is left, all else stays, and a kill costs nothing."""

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.precompute.amend import read_versions, versions_file
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.plan import planned_shards
from pipeline.precompute.remove import read_names, remove_images
from pipeline.precompute.run import run_precompute
from pipeline.precompute.verify import verify_set
from pipeline.shardset.cache import default_cache_folder
from pipeline.shardset.manifest import load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import sample_key
from pipeline.storage.storage import open_store
from pipeline.storage.store import LocalStore
from tests.picture_folders import contents, write_pictures
from tests.s3_server import Bucket

BY_NAME, BY_KEY, BY_DIGEST = (
    "class_0/picture 0.jpg",
    "class_1/picture 1.png",
    "class_2/picture 2.webp",
)
TWIN, BROKEN = "class_0/twin.webp", "class_1/broken.jpg"
GONE = {BY_NAME, BY_KEY, BY_DIGEST, TWIN, BROKEN}


@pytest.fixture
def config(tmp_path: Path) -> PrecomputeConfig:
    """A finished set of 13 pictures, two of them equal, of which another one was rejected."""
    data = tmp_path / "data"
    write_pictures(data, 12)
    shutil.copy(data / BY_DIGEST, data / TWIN)
    (data / BROKEN).write_bytes(b"<html>")
    config = PrecomputeConfig(
        data=data, out=tmp_path / "out", shard_images=3, saliency="centre", max_rejected_fraction=1
    )
    assert run_precompute(config).num_rejected == 1
    return config


def marks(data: Path) -> dict[str, bytes]:
    """Of each image that goes: its name, key, digest and bytes."""
    found = {}
    for name in GONE:
        found[name], found[f"key of {name}"] = name.encode(), sample_key(name).encode()
        found[f"digest of {name}"] = hashlib.sha256((data / name).read_bytes()).hexdigest().encode()
        if name != BROKEN:
            found[f"bytes of {name}"] = (data / name).read_bytes()[-40:]
    return found


def given(data: Path) -> list[str]:
    digest = hashlib.sha256((data / BY_DIGEST).read_bytes()).hexdigest()  # of the twin, too
    return [BY_NAME, sample_key(BY_KEY), digest, BROKEN]


def everything(out: Path) -> bytes:
    """All bytes of all files, and what is compressed in them."""
    found = []
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        found += [str(path).encode(), path.read_bytes()]
        if path.suffix == ".parquet":
            found.append(str(pq.read_table(path).to_pylist()).encode())
        if path.suffix == ".arrow":
            found.append(str(pyarrow.ipc.open_file(path).read_all().to_pylist()).encode())
    return b"".join(found)


def members(out: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted((out / "shards").iterdir()):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    return found


def versions(out: Path) -> bytes:
    return (out / versions_file(0)).read_bytes()


def test_nothing_is_left_and_all_else_stays(config: PrecomputeConfig, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    before, samples, files = everything(out), members(out), contents(out / "shards")
    (out / "report.html").write_bytes(marks(data)[f"bytes of {BY_NAME}"])
    # the bytes of a rejected image are in no set, and so is its digest
    never = {f"key of {BROKEN}", f"digest of {BROKEN}"}
    assert {what for what, mark in marks(data).items() if mark not in before} == never
    removal = remove_images(out, given(data))
    assert (set(removal.sources), removal.num_rejected) == (GONE, 1)
    after = everything(out)
    assert [what for what, mark in marks(data).items() if mark in after] == []
    keys = {sample_key(name) for name in GONE}
    kept = {name: data for name, data in samples.items() if name.partition(".")[0] not in keys}
    assert len(kept) == len(samples) - 4 * 4
    assert list(members(out).items()) == list(kept.items())
    touched = {name.partition(".")[0] for name in samples} & keys
    assert touched == keys - {sample_key(BROKEN)}
    assert any(files[name] == now for name, now in contents(out / "shards").items())
    assert verify_set(out) == []
    info = load_dataset_info(out)
    assert (info.num_images, info.num_rejected) == (9, 0)
    reader = ShardSetReader(out, info)
    seen = [reader.read(number) for number in range(9)]
    assert [bytes(one.image) for one in seen] == [
        data for name, data in kept.items() if name.endswith((".jpg", ".webp", ".png"))
        and "saliency" not in name
    ]  # fmt: skip
    assert [one.label for one in seen] == [int(d) for n, d in kept.items() if n.endswith(".cls")]
    rows = sum(shard.num_rows for shard in planned_shards(open_store(out)))
    stored = read_versions(open_store(out), 0)
    assert stored is not None
    assert rows == len(stored) == 9
    assert all(stored)


def test_runs_know_the_set_apart(config: PrecomputeConfig, tmp_path: Path) -> None:
    """Its digest is another one; that of a set without its rejected images stays."""
    out = tmp_path / "out"
    first = load_dataset_info(out).plan_digest
    assert remove_images(out, [BROKEN]).digests == (first,)
    assert load_dataset_info(out).plan_digest == first
    removal = remove_images(out, [BY_NAME])
    second = load_dataset_info(out).plan_digest
    assert (removal.digests, second != first) == ((first,), True)
    assert remove_images(out, [BY_KEY]).digests == (first, second)
    assert verify_set(out) == []


def test_the_command_of_the_set_goes_on_from_there(
    config: PrecomputeConfig, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    remove_images(out, given(data))
    info, after = load_dataset_info(out), contents(out)
    with pytest.raises(InputError, match=r"\(class_0/picture 0\.jpg is new\).*--append"):
        run_precompute(config)
    assert contents(out) == after
    for name in GONE - {BY_NAME}:
        (data / name).unlink()
    (data / BY_NAME).rename(tmp_path / "again.jpg")
    assert run_precompute(config) == info
    assert contents(out) == after
    (tmp_path / "again.jpg").rename(data / BY_NAME)
    appended = run_precompute(replace(config, append=True))
    assert (appended.num_images, verify_set(out)) == (10, [])
    removal = remove_images(out, [BY_NAME])  # of an append
    assert removal.digests == (appended.plan_digest,)
    (data / BY_NAME).unlink()
    shutil.copy(data / "class_0" / "picture 3.tif", data / "class_0" / "new.tif")
    assert run_precompute(replace(config, append=True)).num_images == 10
    assert remove_images(out, ["class_0/picture 3.tif"]).digests[0] == removal.dataset[
        "plan_digest"
    ].replace(appended.plan_digest, first_digest(out))
    assert verify_set(out) == []


def first_digest(out: Path) -> str:
    digest = (out / "plan.json").read_text().partition('"digest": "')[2][:64]
    assert len(digest) == 64
    return digest


class Killed(BaseException):
    """As by signal 9: nothing catches it."""


@contextmanager
def killed(at: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Ends the process before the write or removal of that number, of the store of a set."""
    done: list[str] = []
    new_file, remove = LocalStore.new_file, LocalStore.remove

    def count(name: str) -> None:
        if len(done) == at:
            raise Killed
        done.append(name)

    @contextmanager
    def writing(self: LocalStore, name: str) -> Iterator[IO[bytes]]:
        with new_file(self, name) as file:
            yield file
            count(name)  # else it appears

    def removing(self: LocalStore, name: str) -> None:
        count(name)
        remove(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "new_file", writing)
        patch.setattr(LocalStore, "remove", removing)
        yield done


def test_a_kill_anywhere_costs_nothing(
    config: PrecomputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out, undisturbed = tmp_path / "data", tmp_path / "out", tmp_path / "undisturbed"
    shutil.copytree(out, undisturbed)
    with killed(-1, monkeypatch) as steps:
        remove_images(undisturbed, given(data))
    assert {"removal.json", "dataset.json", "plan.arrow", "plan.versions"} < set(steps)
    for number in range(len(steps)):
        place = tmp_path / f"set-{number}"
        shutil.copytree(out, place)
        with killed(number, monkeypatch), pytest.raises(Killed):
            remove_images(place, given(data))
        has_begun, is_complete = (place / "removal.json").exists(), number in (0, len(steps) - 1)
        assert has_begun == (number > 0), steps[number]
        assert (place / "dataset.json").exists() == (is_complete or number == 1), steps[number]
        if has_begun:
            with pytest.raises(InputError, match="is not finished: give its --remove again"):
                run_precompute(replace(config, out=place))
        remove_images(place, given(data))
        assert contents(place) == contents(undisturbed), steps[number]
        assert versions(place) == versions(undisturbed), steps[number]
        shutil.rmtree(place)


def test_another_list_finishes_the_first(
    config: PrecomputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with killed(4, monkeypatch), pytest.raises(Killed):
        remove_images(out, [BY_NAME, TWIN])
    assert remove_images(out, [BY_NAME, BY_KEY]).sources == (BY_KEY,)
    assert load_dataset_info(out).num_images == 10
    assert verify_set(out) == []


def test_what_cannot_be_removed_is_named_and_nothing_is_written(
    config: PrecomputeConfig, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    before = contents(out)
    missing = ["nowhere.jpg", *(f"x{number}" for number in range(5))]
    words = r"6 of 7 are no name, key or sha256 .*: nowhere\.jpg, x0, x1, x2, x3, \.\.\.; nothing"
    with pytest.raises(InputError, match=words):
        remove_images(out, [BY_NAME, *missing])
    every = [str(path.relative_to(data)) for path in data.rglob("*.*")]
    with pytest.raises(InputError, match="no image would be left"):
        remove_images(out, every)
    assert contents(out) == before
    tar = next(iter(sorted((out / "shards").iterdir())))
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-1] + b"x")
    with pytest.raises(InputError, match=r"shard-000000\.tar is not what dataset\.json says"):
        remove_images(out, [path for path in every if path != BROKEN][:12])
    tar.write_bytes(whole)
    (out / "plan-001.json").write_bytes((out / "plan.json").read_bytes())
    with pytest.raises(InputError, match="an append that was begun: finish it first"):
        remove_images(out, [BY_NAME])
    with pytest.raises(InputError, match="no such folder"):
        remove_images(tmp_path / "nowhere", [BY_NAME])


def test_lists_are_read_as_they_are_written() -> None:
    """By an editor of Windows, or with names that are not UTF-8, as a manifest has them."""
    lines = io.BytesIO(b"\xef\xbb\xbfa b.jpg\r\n\n \n\xff.jpg\na b.jpg\nlast.jpg")
    assert read_names(lines) == ["a b.jpg", "\\xff.jpg", "last.jpg"]


def test_a_set_in_a_bucket_and_what_was_cached_of_it(
    config: PrecomputeConfig, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bucket.upload(tmp_path / "out", "set")
    url = bucket.url("set")
    info = load_dataset_info(url)
    reader = ShardSetReader(url, info)
    for number in range(info.num_images):
        reader.read(number)
    cached = {path.stem for path in default_cache_folder().glob("*.tar")}
    assert cached == {shard.sha256 for shard in info.shards}
    remove_images(url, given(tmp_path / "data"))
    remove_images(tmp_path / "out", given(tmp_path / "data"))
    local = {str(path.relative_to(tmp_path / "out")): path.read_bytes()
             for path in (tmp_path / "out").rglob("*") if path.is_file()}  # fmt: skip
    assert bucket.contents("set") == local
    left = {path.stem for path in default_cache_folder().glob("*.tar")}
    assert left == cached & {shard.sha256 for shard in load_dataset_info(url).shards}
    assert left < cached
