"""What every store promises: a local folder, and buckets on real servers."""

import json
import os
import pickle
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.stores.storage import Store, StoreError, is_url, open_store, retrying
from tests.azurite import COMMAND, azurite, make_container
from tests.s3_server import Bucket

MIB = 1 << 20


@pytest.fixture(scope="session")
def azurite_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if COMMAND is None:
        pytest.skip("no azurite-blob on the PATH")
    with azurite(tmp_path_factory.mktemp("azurite")) as address:
        yield address


@pytest.fixture(params=["local", "s3", "gs", "az"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "local":
        return open_store(tmp_path / "root")
    if request.param == "az":
        address: str = request.getfixturevalue("azurite_address")
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", address)
        container = f"test{secrets.token_hex(6)}"
        make_container(address, container)
        return open_store(f"az://{container}/some/prefix?retry_seconds=1")
    if request.param == "gs":
        key = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(key))
    bucket: Bucket = request.getfixturevalue("bucket")
    bucket.allow_anyone()
    return open_store(bucket.url("some/prefix", scheme=request.param, retry_seconds=1))


def test_files_are_written_read_listed_and_removed(store: Store) -> None:
    store.write("a/b.bin", b"0123456789")
    store.write("c #?%20ü.bin", b"x" * 5)
    store.write("a/empty", b"")
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read("a/empty") == store.read_range("a/empty", 0, 8) == b""
    assert store.read_range("a/b.bin", 3, 4) == b"3456"
    assert store.read_range("a/b.bin", 8, 10) == b"89"
    assert (store.size("a/b.bin"), store.size("a/nope"), store.size("a")) == (10, None, None)
    assert sorted(store.files()) == [("a/b.bin", 10), ("a/empty", 0), ("c #?%20ü.bin", 5)]
    assert sorted(store.names("a")) == ["a/b.bin", "a/empty"]
    assert list(store.names("nowhere")) == []
    store.write("a/b.bin", b"new")
    assert store.read("a/b.bin") == b"new"
    for name in ("a/b.bin", "a/b.bin", "a/empty"):
        store.remove(name)
    assert list(store.names()) == ["c #?%20ü.bin"]
    for read in (store.read, store.open, lambda name: store.read_range(name, 0, 1)):
        with pytest.raises(FileNotFoundError):
            read("a/b.bin")


def test_an_open_file_reads_and_seeks(store: Store) -> None:
    store.write("x", bytes(range(256)) * 3)
    with store.open("x") as file:
        file.seek(256)
        assert file.read(3) == bytes([0, 1, 2])
        assert file.tell() == 259
        file.seek(-2, os.SEEK_END)
        assert file.read() == bytes([254, 255])


def test_a_large_file_appears_whole_or_not_at_all(store: Store) -> None:
    data = os.urandom(13 * MIB)
    store.write("x", data)
    assert store.read("x") == data

    def fail() -> None:
        with store.new_file("x") as file:
            file.write(bytes(20 * MIB))
            assert store.size("x") == len(data)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert store.read("x") == data
    assert list(store.names()) == ["x"]


def test_a_store_pickles(store: Store) -> None:
    store.write("x", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.read("x") == b"1"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://x/y", "http:// is not supported: use a local path, s3://, gs://, az://"),
        ("s3://", "names no bucket"),
        ("s3:/bucket/x", "write s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", r"s3://\.\.\. contains credentials"),
        ("s3://bucket/x?endpoint=1", "endpoint=: unknown option; known are endpoint_override"),
        ("s3://bucket/x?retry_seconds=soon", "retry_seconds must be a number"),
    ],
)
def test_bad_urls_are_refused(url: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_store(url)


def test_a_path_is_no_url() -> None:
    assert [is_url(place) for place in ("a/b", Path("/a"), "gs://b/x")] == [False, False, True]


def test_only_temporary_failures_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    monkeypatch.setattr("pipeline.stores.storage.time.monotonic", lambda: now)
    monkeypatch.setattr("pipeline.stores.storage.time.sleep", sleep)

    def fail(error: OSError) -> None:
        raise error

    for error in (OSError(5, "Input/output error"), ConnectionError("Input/output error")):
        with pytest.raises(StoreError, match=r"^x: Input/output error \(tried again for 10 s\)$"):
            retrying("x", partial(fail, error), 10)
        assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.7])
        pauses.clear()
    with pytest.raises(StoreError, match=r"^x: Permission denied$"):
        retrying("x", lambda: fail(OSError(13, "Permission denied")), 10)
    assert pauses == []
