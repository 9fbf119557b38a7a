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
from pipeline.precompute.amend import versions_file
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.remove import remove_images
from pipeline.precompute.run import run_precompute
from pipeline.precompute.verify import verify_set
from pipeline.shardset.cache import default_cache_folder
from pipeline.shardset.manifest import load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import sample_key
from pipeline.storage.store import LocalStore
from tests.picture_folders import contents, write_pictures
from tests.s3_server import Bucket

BY_NAME, BY_KEY = "class_0/picture 0.jpg", "class_1/picture 1.png"
BY_DIGEST, TWIN = "class_2/picture 2.webp", "class_0/twin.webp"
BROKEN = "class_1/broken.jpg"
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


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def given(data: Path) -> list[str]:
    return [BY_NAME, sample_key(BY_KEY), digest_of(data / BY_DIGEST), BROKEN]


def marks(data: Path) -> dict[str, bytes]:
    """Of each image that goes: its name, key, digest and bytes; but those that no set has."""
    found = {f"name of {BROKEN}": BROKEN.encode()}
    for name in GONE - {BROKEN}:
        found[f"name of {name}"], found[f"key of {name}"] = name.encode(), sample_key(name).encode()
        found[f"digest of {name}"] = digest_of(data / name).encode()
        found[f"bytes of {name}"] = (data / name).read_bytes()[-40:]
    return found


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
                found[member.name] = (tar.extractfile(member) or io.BytesIO()).read()
    return found


def test_nothing_is_left_and_all_else_stays(config: PrecomputeConfig, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    before, samples, files = everything(out), members(out), contents(out / "shards")
    assert [what for what, mark in marks(data).items() if mark not in before] == []
    (out / "report.html").write_bytes((data / BY_NAME).read_bytes())
    assert set(remove_images(out, given(data)).sources) == GONE
    after = everything(out)
    assert [what for what, mark in marks(data).items() if mark in after] == []
    keys = {sample_key(name) for name in GONE}
    kept = [(name, data) for name, data in samples.items() if name.partition(".")[0] not in keys]
    assert list(members(out).items()) == kept
    assert len(kept) == len(samples) - 4 * 4
    assert any(files[name] == now for name, now in contents(out / "shards").items())
    assert verify_set(out) == []
    info = load_dataset_info(out)
    assert (info.num_images, info.num_rejected) == (9, 0)
    reader = ShardSetReader(out, info)
    seen = [
        (reader.read(n).key, bytes(reader.read(n).image), reader.read(n).label) for n in range(9)
    ]
    images = [
        one for one in kept if one[0].count(".") == 1 and not one[0].endswith(("json", "cls"))
    ]
    labels = [int(data) for name, data in kept if name.endswith(".cls")]
    assert seen == [(n.partition(".")[0], d, at) for (n, d), at in zip(images, labels, strict=True)]
    assert len((out / versions_file(0)).read_bytes()) == 9 * 8


def test_runs_know_the_set_apart(config: PrecomputeConfig, tmp_path: Path) -> None:
    """Its digest is another one; that of a set without its rejected images stays."""
    out = tmp_path / "out"
    first = load_dataset_info(out).plan_digest
    assert remove_images(out, [BROKEN]).digests == [first]
    info = load_dataset_info(out)
    assert (info.plan_digest, info.num_rejected, verify_set(out)) == (first, 0, [])
    assert BROKEN.encode() not in everything(out)
    assert remove_images(out, [BY_NAME]).digests == [first]
    second = load_dataset_info(out).plan_digest
    assert second != first
    assert remove_images(out, [BY_KEY]).digests == [first, second]
    assert load_dataset_info(out).plan_digest not in (first, second)


def test_the_command_of_the_set_goes_on_from_there(
    config: PrecomputeConfig, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    remove_images(out, given(data))
    info, after = load_dataset_info(out), contents(out)
    with pytest.raises(InputError, match=r"\(class_0/picture 0\.jpg is new\).*--append"):
        run_precompute(config)
    for name in GONE - {BY_NAME}:
        (data / name).unlink()
    (data / BY_NAME).rename(tmp_path / "again.jpg")
    assert run_precompute(config) == info
    assert contents(out) == after
    (tmp_path / "again.jpg").rename(data / BY_NAME)
    appended = run_precompute(replace(config, append=True))
    assert (appended.num_images, verify_set(out)) == (10, [])
    assert remove_images(out, [BY_NAME]).digests == [appended.plan_digest]  # not those before it
    first = remove_images(out, ["class_0/picture 3.tif"]).digests
    assert {info.plan_digest, appended.plan_digest} < set(first)
    assert (load_dataset_info(out).num_images, verify_set(out)) == (8, [])


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
    for number, step in enumerate(steps):
        place = tmp_path / f"set-{number}"
        shutil.copytree(out, place)
        with killed(number, monkeypatch), pytest.raises(Killed):
            remove_images(place, given(data))
        is_complete = number < 2 or number == len(steps) - 1  # with the images, or without
        assert (place / "dataset.json").exists() == is_complete, step
        if number:
            with pytest.raises(InputError, match="is not finished: give its --remove again"):
                run_precompute(replace(config, out=place))
        other_list = [name for name in given(data) if name != BY_NAME] if number else given(data)
        remove_images(place, other_list)
        assert contents(place) == contents(undisturbed), step
        versions = [(at / versions_file(0)).read_bytes() for at in (place, undisturbed)]
        assert versions[0] == versions[1], step


def test_what_cannot_be_removed_is_named_and_nothing_is_written(
    config: PrecomputeConfig, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    every = [str(path.relative_to(data)) for path in data.rglob("*.*")]
    tar = out / "shards" / "shard-000000.tar"
    whole = tar.read_bytes()
    for names, words in (
        ([BY_NAME, *"vwxyza"], r"6 of 7 are no name, key or sha256 .*: a, v, w, x, y, \.\.\.; not"),
        (every, "no image would be left"),
    ):
        before = contents(out)
        with pytest.raises(InputError, match=words):
            remove_images(out, names)
        assert contents(out) == before
    tar.write_bytes(whole[:-1] + b"x")
    with pytest.raises(InputError, match=r"shard-000000\.tar is damaged: run jobs/precompute"):
        remove_images(out, [path for path in every if path != BROKEN][:12])
    tar.write_bytes(whole)
    (out / "plan-001.json").write_bytes((out / "plan.json").read_bytes())
    with pytest.raises(InputError, match="an append that was begun: finish it first"):
        remove_images(out, [BY_NAME])


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
    remove_images(url, given(tmp_path / "data"))
    left = {path.stem for path in default_cache_folder().glob("*.tar")}
    now = {shard.sha256 for shard in load_dataset_info(url).shards}
    assert set() < left == now & {shard.sha256 for shard in info.shards} < now
    remove_images(tmp_path / "out", given(tmp_path / "data"))
    files = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
    local = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in files}
    assert bucket.contents("set") == local
