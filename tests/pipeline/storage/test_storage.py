"""What every store promises: a local folder, and buckets on real servers."""

import json
import os
import pickle
import secrets
from functools import partial
from pathlib import Path

import pytest

from pipeline.core.errors import InputError, StoreUnavailable
from pipeline.storage.storage import open_store, without_options
from pipeline.storage.store import Store, StoreError, retrying
from tests.s3_server import Bucket

MIB = 1 << 20


AZURITE = os.environ.get("SALMASK_AZURITE")
"""Address of Microsoft's emulator of Azure Blob Storage with a container `salmask`."""


@pytest.fixture(params=["local", "s3", "gs", "az"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "local":
        return open_store(tmp_path / "root")
    if request.param == "az":
        if AZURITE is None:
            pytest.skip("no emulator of Azure (set SALMASK_AZURITE)")
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", AZURITE)
        return open_store(f"az://salmask/{secrets.token_hex(6)}?retry_seconds=1")
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
    assert store.read("a/empty") == store.read("a/empty", 0, 8) == b""
    assert store.read("a/b.bin", 3, 4) == b"3456"
    assert store.read("a/b.bin", 8, 10) == b"89"
    assert (store.size("a/b.bin"), store.size("a/nope"), store.size("a")) == (10, None, None)
    assert sorted(file[:2] for file in store.files()) == [
        ("a/b.bin", 10),
        ("a/empty", 0),
        ("c #?%20ü.bin", 5),
    ]
    assert sorted(store.names("a")) == ["a/b.bin", "a/empty"]
    assert list(store.names("nowhere")) == []
    store.write("a/b.bin", b"new")
    assert store.read("a/b.bin") == b"new"
    for name in ("a/b.bin", "a/b.bin", "a/empty"):
        store.remove(name)
    assert list(store.names()) == ["c #?%20ü.bin"]
    for read in (store.read, store.open, lambda name: store.read(name, 0, 1)):
        with pytest.raises(FileNotFoundError):
            read("a/b.bin")


def test_a_large_file_appears_whole_or_not_at_all_and_can_be_opened(store: Store) -> None:
    data = os.urandom(13 * MIB)
    store.write("x", data)

    def fail() -> None:
        with store.new_file("x") as file:
            file.write(bytes(20 * MIB))
            assert store.size("x") == len(data)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(store.names()) == ["x"]
    again: Store = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.read("x") == data
    with again.open("x") as opened:
        opened.seek(256)
        assert opened.read(3) == data[256:259]
        assert opened.tell() == 259
        opened.seek(-2, os.SEEK_END)
        assert opened.read() == data[-2:]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://x/y", "http:// is not supported: use a local path, s3://, gs://, az://"),
        ("s3://", "names no bucket"),
        ("s3:/bucket/x", "write s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", r"s3://\.\.\. contains credentials"),
        ("s3://bucket//x", "s3://bucket//x has an empty part: write it without the double slash"),
        ("az://bucket/x//y/", "without the double slash"),
        ("s3://bucket/x?endpoint=1", "unknown option endpoint; known are endpoint_override"),
        ("s3://bucket/x?retry_seconds=soon", "retry_seconds must be a number"),
    ],
)
def test_bad_urls_are_refused(url: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_store(url)


def test_options_of_urls_are_for_nobody_else() -> None:
    options = "endpoint_override=http://10.0.0.7:9000&anonymous=true"
    assert without_options(f"s3://b/x?{options}") == "s3://b/x"
    assert without_options(f"no set at gs://b/x y?{options}") == f"no set at gs://b/x y?{options}"
    assert without_options(f"a s3://b?{options}, az://c?{options}; c") == "a s3://b, az://c; c"
    assert without_options(f"azure://c/x?{options}") == "azure://c/x"
    assert without_options(f'{{"a": "s3://b?{options}", "b": 1}}') == '{"a": "s3://b", "b": 1}'
    for scheme in ("http", "postgresql+psycopg2"):
        assert (
            without_options(f'"{scheme}://me:p@s%2F@host:5/db?x", ')
            == f'"{scheme}://host:5/db?x", '
        )
    for text in (
        "mail me@x",
        "http://h/a@b",
        "which? s3://b/x",
        "s3://b/x is there",
        "runs/mine?x=1",
        "sqlite:///a?b=1",
    ):
        assert without_options(text) == text


def test_only_temporary_failures_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    monkeypatch.setattr("pipeline.storage.store.time.monotonic", lambda: now)
    monkeypatch.setattr("pipeline.storage.store.time.sleep", sleep)

    def fail(error: OSError) -> None:
        raise error

    for error in (OSError(5, "Input/output error"), ConnectionError("Input/output error")):
        with pytest.raises(
            StoreUnavailable, match=r"^x: Input/output error \(tried again for 10 s\)$"
        ):
            retrying("x", partial(fail, error), 10)
        assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.7])
        pauses.clear()
    with pytest.raises(StoreError, match=r"^x: Permission denied$"):
        retrying("x", lambda: fail(OSError(13, "Permission denied")), 10)
    assert pauses == []
