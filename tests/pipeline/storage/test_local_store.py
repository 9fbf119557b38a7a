"""What only a local folder has: links, permissions, names of bytes, folders to flush."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.sources.listing import SourceOptions, collect
from pipeline.sources.registry import open_source
from pipeline.storage.atomic import atomic_file, temporaries, write_atomically
from pipeline.storage.storage import open_store
from pipeline.storage.store import RETRY_SECONDS, LocalStore, StoreError
from tests.shard_sets import write_shard_set


def test_any_name_can_be_listed_and_read(tmp_path: Path) -> None:
    names = [b"a/\xff.jpg", b"new\nline.jpg", b"img#1", b"50%.jpg", b".hidden"]
    (tmp_path / "a").mkdir()
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(name)
    store = LocalStore(tmp_path)
    assert {os.fsencode(name): size for name, size, _ in store.files()} == {
        name: len(name) for name in names
    }
    assert [store.read(os.fsdecode(name)) for name in names] == names
    assert store.where(os.fsdecode(names[0])) == f"{tmp_path}/a/\\xff.jpg"


def test_links_are_followed_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    for name in ("set/own/x", "set/own/deep/y", "elsewhere/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    links = {"set/again": "own/deep", "set/b": "../elsewhere", "set/c": "../elsewhere"}
    links |= {"set/own/deep/loop": "../..", "elsewhere/back": "../set/own", "set/one": "own/x"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    store = LocalStore(tmp_path / "set")
    assert sorted(store.names()) == ["b/z", "one", "own/deep/y", "own/x"]
    assert sorted(store.names("own")) == [
        "own/deep/loop/b/z",
        "own/deep/loop/one",
        "own/deep/y",
        "own/x",
    ]
    os.mkfifo(tmp_path / "set" / "pipe")
    assert ("pipe", -1, 0) in list(store.files())
    (tmp_path / "set" / "broken").symlink_to("nowhere")
    with pytest.raises(StoreError, match=r"cannot list .*/broken: No such file .* broken link"):
        list(store.files())


@pytest.fixture
def somebody_else() -> Iterator[Path]:
    """A folder that others may read, while the process is nobody in particular."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "closed").mkdir()
        (folder / "closed" / "x").write_bytes(b"1")
        (folder / "secret.txt").write_bytes(b"2")
        (folder / "closed").chmod(0)
        (folder / "secret.txt").chmod(0)
        folder.chmod(0o755)
        user = os.geteuid()
        if user == 0:  # root may read everything
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(user)
            (folder / "closed").chmod(0o700)


def test_a_missing_permission_is_reported_at_once(somebody_else: Path) -> None:
    store = open_store(somebody_else)
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"/secret\.txt cannot be read: Permission denied$"):
        store.read("secret.txt")
    with pytest.raises(StoreError, match=r"cannot list .*/closed: Permission denied$"):
        list(store.files())
    with pytest.raises(InputError, match=r"cannot list .*/closed: Permission denied$"):
        collect(open_source(somebody_else, SourceOptions()))
    assert time.monotonic() - started < RETRY_SECONDS


def test_folders_are_flushed_when_asked_for_and_before_a_set_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    plain = os.fsync

    def noted(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    store = LocalStore(tmp_path / "set")
    store.write("shards/one", b"1")
    assert len(flushed) == 1, "the file alone"
    store.settle()
    assert sorted(flushed[1:]) == ["set", "shards"]
    del flushed[:]
    write_shard_set(tmp_path / "set", num_images=4)
    last_file = next(i for i, name in enumerate(flushed) if name.startswith(".dataset.json."))
    assert {"set", "shards", "manifest"} <= set(flushed[last_file - 4 : last_file])
    assert "set" in flushed[last_file:]


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.bin"
    with atomic_file(path) as file:
        file.write(b"abc")
        assert not path.exists()
        assert len(temporaries(path.parent)) == 1
    assert path.read_bytes() == b"abc"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_atomically(path, b"old")

    def fail() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
