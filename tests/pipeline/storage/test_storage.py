"""The same promises from a local folder and from a bucket on a real S3 server."""

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.sources.collected import collect
from pipeline.sources.registry import SourceOptions, open_source
from pipeline.storage import storage
from pipeline.storage.local_store import LocalStore
from pipeline.storage.object_store import ObjectStore
from pipeline.storage.storage import Store, StoreError, open_store, retrying
from tests.s3_server import Bucket
from tests.shard_sets import write_shard_set

MIB = 1 << 20


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(tmp_path / "root")
    bucket: Bucket = request.getfixturevalue("bucket")
    return open_store(bucket.url("some/prefix", retry_seconds=1))


def test_files_are_written_read_listed_and_removed(store: Store) -> None:
    store.write("a/b.bin", b"0123456789")
    store.write("c #?%20ü.bin", b"x" * 5)
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read_range("a/b.bin", 3, 4) == b"3456"
    assert store.read_range("a/b.bin", 8, 10) == b"89"
    assert (store.size("a/b.bin"), store.size("a/nope"), store.size("a")) == (10, None, None)
    assert sorted(store.files()) == [("a/b.bin", 10), ("c #?%20ü.bin", 5)]
    assert list(store.names("a")) == ["a/b.bin"]
    assert list(store.names("nowhere")) == []
    store.write("a/b.bin", b"new")
    assert store.read("a/b.bin") == b"new"
    store.remove("a/b.bin")
    store.remove("a/b.bin")
    assert list(store.names()) == ["c #?%20ü.bin"]
    with pytest.raises(FileNotFoundError):
        store.read("a/b.bin")
    with pytest.raises(FileNotFoundError):
        store.read_range("a/b.bin", 0, 1)
    with pytest.raises(FileNotFoundError):
        store.open("a/b.bin")


def test_an_open_file_reads_and_seeks(store: Store) -> None:
    store.write("x", bytes(range(256)) * 3)
    with store.open("x") as file:
        file.seek(256)
        assert file.read(3) == bytes([0, 1, 2])
        assert file.tell() == 259
        file.seek(-2, os.SEEK_END)
        assert file.read() == bytes([254, 255])


def test_a_file_appears_when_its_block_ends_well_or_not_at_all(store: Store) -> None:
    store.write("x", b"old")

    def fail() -> None:
        with store.new_file("x") as file:
            file.write(bytes(20 * MIB))
            assert store.read("x") == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert store.read("x") == b"old"
    assert list(store.names()) == ["x"]


def test_a_store_pickles(store: Store) -> None:
    store.write("x", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.read("x") == b"1"


def test_a_large_file_goes_up_whole(bucket: Bucket) -> None:
    data = os.urandom(23 * MIB)
    open_store(bucket.url("p")).write("big", data)
    assert bucket.contents("p") == {"big": data}
    assert bucket.unfinished() == 0


def test_a_short_outage_in_mid_upload_is_survived(bucket: Bucket) -> None:
    data = os.urandom(23 * MIB)
    bucket.wire.cut_after(12 * MIB)
    mender = threading.Timer(4.0, bucket.wire.mend)
    mender.start()
    open_store(bucket.url("p")).write("big", data)
    mender.join()
    assert bucket.contents("p") == {"big": data}


def test_a_long_outage_leaves_nothing_under_the_name_and_is_swept(bucket: Bucket) -> None:
    """Run in a process of its own: what its end does to a stream that failed is the point."""
    bucket.wire.cut_after(12 * MIB)
    script = (
        "import sys\n"
        "from pipeline.storage.storage import StoreError, open_store\n"
        "store = open_store(sys.argv[1])\n"
        "try:\n"
        f"    store.write('big', bytes({23 * MIB}))\n"
        "except StoreError as error:\n"
        "    print(error, flush=True)\n"
        "sys.stdin.read()\n"
    )
    url = bucket.url("p", retry_seconds=1)
    with subprocess.Popen(
        [sys.executable, "-c", script, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        bucket.wire.mend()  # from now on nothing keeps the process from completing the upload
        rest = process.communicate(timeout=60)
    assert line.startswith(f"s3://{bucket.name}/p/big cannot be written: ")
    assert line.endswith("(tried again for 1 s)\n")
    assert (process.returncode, *rest) == (0, "", "")
    assert bucket.contents("p") == {}
    assert bucket.unfinished() >= 1
    elsewhere = open_store(bucket.url("other"))
    assert elsewhere.sweep() == 0
    assert open_store(url).sweep() >= 1
    assert bucket.unfinished() == 0


def test_reads_are_tried_again_and_then_say_where(bucket: Bucket) -> None:
    bucket.put("p/x", b"1")
    store = open_store(bucket.url("p", retry_seconds=1))
    bucket.wire.cut()
    threading.Timer(0.5, bucket.wire.mend).start()
    assert store.read("x") == b"1"
    bucket.wire.cut()
    for what in (lambda: store.read("x"), lambda: store.size("x"), lambda: list(store.files())):
        with pytest.raises(StoreError, match=rf"s3://{bucket.name}/p.* \(tried again for 1 s\)"):
            what()


def test_a_refusal_is_said_at_once(bucket: Bucket) -> None:
    bucket.put("p/x", b"1")
    store = open_store(bucket.url("p"))
    nowhere = open_store(bucket.url("p", bucket="no-such-bucket"))
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"no-such-bucket/p cannot be listed: no such bucket$"):
        list(nowhere.files())
    with pytest.raises(StoreError, match=r"no-such-bucket/p/x cannot be written: no such bucket$"):
        nowhere.write("x", b"")
    with bucket.no_access():
        with pytest.raises(StoreError, match="/p/x cannot be read: access denied"):
            store.read("x")
        with pytest.raises(StoreError, match=r"/p/y cannot be written: access denied"):
            store.write("y", b"")
        with pytest.raises(StoreError, match=r"cannot be listed: access denied \(unknown"):
            list(store.files())
        assert store.sweep() == 0
    assert time.monotonic() - started < storage.RETRY_SECONDS  # nothing of it was tried again


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://x/y", "http:// is no known kind of place; known are local paths, s3://, gs://"),
        ("s3://", "names no bucket"),
        ("s3:/bucket/x", "write s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", r"s3://\.\.\. has credentials in it"),
        ("s3://bucket/x?endpoint=1", "endpoint=: unknown option; known are endpoint_override"),
        ("s3://bucket/x?retry_seconds=soon", "retry_seconds is a number"),
    ],
)
def test_places_that_are_none_are_refused(url: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_store(url)


def test_an_endpoint_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:5000/")
    from_environment = open_store("s3://bucket/x/")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert from_environment == open_store(
        "s3://bucket/x?endpoint_override=127.0.0.1:5000&scheme=http"
    )
    assert from_environment.url == "s3://bucket/x"
    assert open_store("gs://bucket/x") == ObjectStore("gs", "bucket/x")


def test_google_storage_that_cannot_be_reached_is_said(bucket: Bucket) -> None:
    bucket.wire.cut()
    options = f"endpoint_override=http://127.0.0.1:{bucket.wire.port}&anonymous=true"
    store = open_store(f"gs://bucket/x?{options}&retry_seconds=0")
    with pytest.raises(StoreError, match=r"gs://bucket/x/y cannot be read: .*tried again for 0 s"):
        store.read("y")


def test_names_that_are_not_utf8_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with open(os.fsencode(tmp_path) + b"/a/\xff.jpg", "wb") as file:
        file.write(b"x")
    store = LocalStore(tmp_path)
    ((name, size),) = store.files()
    assert (os.fsencode(name), size) == (b"a/\xff.jpg", 1)
    assert store.read(name) == b"x"
    assert store.where(name) == f"{tmp_path}/a/\\xff.jpg"


def test_only_what_may_pass_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    monkeypatch.setattr("pipeline.storage.storage.time.monotonic", lambda: now)
    monkeypatch.setattr("pipeline.storage.storage.time.sleep", sleep)

    def fail() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(StoreError, match=r"^x: Input/output error \(tried again for 10 s\)$"):
        retrying("x", fail, is_outage=lambda _: True, seconds=10)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.7])
    pauses.clear()
    with pytest.raises(StoreError, match=r"^x: Input/output error$"):
        retrying("x", fail, is_outage=lambda _: False, seconds=10)
    assert pauses == []


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


def test_no_permission_is_said_at_once(somebody_else: Path) -> None:
    store = open_store(somebody_else)
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"/secret\.txt cannot be read: Permission denied$"):
        store.read("secret.txt")
    with pytest.raises(StoreError, match=r"cannot list .*/closed: Permission denied$"):
        list(store.files())
    with pytest.raises(InputError, match=r"cannot list .*/closed: Permission denied$"):
        collect(open_source(somebody_else, SourceOptions()))
    assert time.monotonic() - started < storage.RETRY_SECONDS


def test_names_are_settled_when_asked_for_and_before_a_set_is_complete(
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
