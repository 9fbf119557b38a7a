"""Buckets: outages, refusals, options, folder markers, refused keys, regions, forks."""

import ast
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from obstore.store import AzureStore

from pipeline.core.errors import StoreUnavailable
from pipeline.storage.object_store import ObjectStore, _connect, bucket_region
from pipeline.storage.storage import open_store
from pipeline.storage.store import RETRY_SECONDS, Store, StoreError
from tests.s3_server import Bucket
from tests.signals import ctrl_c_is_heard

MIB = 1 << 20


def test_a_short_outage_during_an_upload_is_survived(bucket: Bucket) -> None:
    data = os.urandom(23 * MIB)
    bucket.wire.call_after(12 * MIB, bucket.wire.cut)
    mender = threading.Timer(4.0, bucket.wire.mend)
    mender.start()
    open_store(bucket.url("p")).write("big", data)
    mender.join()
    assert bucket.contents("p") == {"big": data}


LONG_OUTAGE = f"""
import sys
from pipeline.core.errors import StoreUnavailable
from pipeline.storage.storage import open_store
try:
    open_store(sys.argv[1]).write('big', bytes({23 * MIB}))
except StoreUnavailable as error:
    print(error, flush=True)
sys.stdin.read()
"""


def test_a_long_outage_leaves_nothing_under_the_name_and_is_swept(bucket: Bucket) -> None:
    """Run in a process of its own, whose end must not complete the upload."""
    bucket.wire.call_after(12 * MIB, bucket.wire.cut)
    url, pipe = bucket.url("p", retry_seconds=1), subprocess.PIPE
    command = [sys.executable, "-c", LONG_OUTAGE, url]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        bucket.wire.mend()  # from now on nothing keeps the process from completing the upload
        rest = process.communicate(timeout=60)
    assert line.startswith(f"s3://{bucket.name}/p/big cannot be written: ")
    assert line.endswith("(tried again for 1 s)\n")
    assert (process.returncode, *rest) == (0, "", "")
    assert bucket.contents("p") == {}
    assert bucket.unfinished() >= 1
    assert open_store(bucket.url("other")).sweep() == 0
    assert open_store(url).sweep() >= 1
    assert bucket.unfinished() == 0


def test_ctrl_c_during_an_upload_leaves_nothing(bucket: Bucket) -> None:
    data = bytes(64 * MIB)
    bucket.wire.call_after(12 * MIB, lambda: os.kill(os.getpid(), signal.SIGINT))
    with ctrl_c_is_heard(), pytest.raises(KeyboardInterrupt):
        open_store(bucket.url("p")).write("big", data)
    assert (bucket.contents("p"), bucket.unfinished()) == ({}, 0)


def test_reads_are_retried_and_then_name_the_file(bucket: Bucket) -> None:
    bucket.put("p/x", b"1")
    store = open_store(bucket.url("p", retry_seconds=1))
    bucket.wire.cut()
    threading.Timer(0.5, bucket.wire.mend).start()
    assert store.read("x") == b"1"
    bucket.wire.cut()
    store = open_store(bucket.url("p", retry_seconds=0))
    line = rf"^s3://{bucket.name}/p.* Connection refused \(tried again for 0 s\)$"
    for what in (lambda: store.read("x"), lambda: store.size("x"), lambda: list(store.files())):
        with pytest.raises(StoreUnavailable, match=line):
            what()


def test_a_refusal_is_reported_at_once(bucket: Bucket) -> None:
    bucket.put("p/x", b"1")
    started = time.monotonic()
    denied = "403 Forbidden: The AWS Access Key Id you provided does not exist"

    def refused(store: Store, reason: str) -> None:
        for verb, request in (
            ("read", lambda: store.read("x")),
            ("written", lambda: store.write("x", b"")),
            ("listed", lambda: list(store.files())),
        ):
            with pytest.raises(StoreError, match=rf"/p(/x)? cannot be {verb}: {reason}"):
                request()

    nowhere = open_store(bucket.url("p", bucket="nosuchbucket"))
    refused(nowhere, "404 Not Found: The specified bucket does not exist$")
    with bucket.no_access():
        store = open_store(bucket.url("p"))
        refused(store, denied)
        with pytest.raises(StoreError, match=r"/p/x cannot be looked up: 403 Forbidden$"):
            store.size("x")
        assert store.sweep() == 0
    assert time.monotonic() - started < RETRY_SECONDS  # nothing was retried


def test_folders_are_listed_and_their_markers_are_no_files(bucket: Bucket) -> None:
    for key in ("p/", "p/a/", "p/a/x.jpg", "p/empty/", "pp/other"):
        bucket.put(key, b"1" * key.endswith("jpg"))
    assert [f[:2] for f in open_store(bucket.url("p")).files()] == [("a/x.jpg", 1)]
    assert [f[:2] for f in open_store(bucket.url("p")).files("a")] == [("a/x.jpg", 1)]
    assert sorted(open_store(bucket.url()).names()) == ["p/a/x.jpg", "pp/other"]
    names = [f"{outer}/{inner}" for outer in range(10) for inner in range(2)]
    for name in names:  # more folders than are listed at once
        bucket.put(f"many/{name}", b"")
    assert sorted(open_store(bucket.url("many")).names()) == names


@pytest.mark.parametrize(("key", "shown"), [("p/x//y", "p/x//"), ("/y", "/"), ("p/./y", "p/.")])
def test_a_key_that_cannot_be_listed_is_named(bucket: Bucket, key: str, shown: str) -> None:
    bucket.put(key, b"1")
    with pytest.raises(StoreError, match=rf"cannot be listed: the key '{shown}/?' has an empty"):
        list(open_store(bucket.url()).files())
    with pytest.raises(StoreError, match=r"cannot be read: the key '.*' has an empty part"):
        open_store(bucket.url()).read("p/x//y")


def test_an_endpoint_may_come_from_the_environment(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("x", b"1")
    address = f"http://127.0.0.1:{bucket.wire.port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{address}/")
    store = open_store(f"s3://{bucket.name}")
    assert store.url == f"s3://{bucket.name}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # the store remembers
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    assert store.read("x") == b"1"
    query = f"endpoint_override=127.0.0.1:{bucket.wire.port}&scheme=http"
    assert store == open_store(f"s3://{bucket.name}?{query}")
    assert open_store("gs://bucket/x") == ObjectStore("gs", "bucket/x")


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_other_clouds_that_cannot_be_reached_are_named(
    bucket: Bucket, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "somebody")
    bucket.wire.cut()
    url = bucket.url("x", scheme=scheme, bucket="bucket", anonymous="true", retry_seconds=0)
    line = rf"{scheme}://bucket/x/y cannot be read: .*Connection refused \(tried again for 0 s\)"
    with pytest.raises(StoreUnavailable, match=line):
        open_store(url).read("y")


def test_azure_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Azure is reached: a URL on its way into obstore, and what obstore says then."""
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    store = open_store("azure://container/x?retry_seconds=0")
    assert store == ObjectStore("az", "container/x", retry_seconds=0)
    with pytest.raises(StoreError, match=r"x/y cannot be read: no account: set AZURE_STORAGE_ACC"):
        store.read("y")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "somebody")
    made = _connect(ObjectStore("az", "container/p"))
    assert isinstance(made, AzureStore)
    assert (made.prefix, made.config["container_name"]) == ("p", "container")


def test_credentials_come_from_a_profile_or_are_not_sent(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("x", b"1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    lines = ["[profile mine]", "aws_access_key_id = a", "aws_secret_access_key = b"]
    (tmp_path / "config").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert open_store(bucket.url()).read("x") == b"1"
    anonymous = open_store(bucket.url(anonymous="true"))
    with pytest.raises(StoreError, match="403 Forbidden"):
        anonymous.read("x")
    bucket.allow_anyone()
    assert anonymous.read("x") == b"1"
    assert anonymous.sweep() == 0


def test_the_region_of_a_bucket_is_asked_for_until_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [(503, "wrong"), (500, "wrong"), (301, "eu-west-1"), (404, "")]

    class S3(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            status, region = answers.pop(0)
            self.send_response(status)
            if region:
                self.send_header("x-amz-bucket-region", region)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), S3) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            assert bucket_region("any", address) == "eu-west-1"
            assert bucket_region("nosuchbucket", address) is None
        finally:
            server.shutdown()
    assert answers == []
    monkeypatch.setattr("pipeline.storage.object_store.REGION_SECONDS", 0.1)
    assert bucket_region("any", "http://127.0.0.1:1") is None


def read(store: Store, told: Connection) -> None:
    try:
        told.send(store.read("x"))
    except StoreError as error:
        told.send(str(error))


@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_a_process_reads_unless_it_was_forked_from_one_that_did(
    bucket: Bucket, method: str
) -> None:
    bucket.put("x", b"1")
    store = open_store(bucket.url())
    assert store.read("x") == b"1"
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context(method).Process(target=read, args=(store, theirs))  # type: ignore[attr-defined]
    process.start()
    try:
        assert ours.poll(30), "it hangs"
        answer = ours.recv()
    finally:
        process.kill()
    if method == "fork":
        assert "start processes with spawn or forkserver" in str(answer)
    else:
        assert answer == b"1"


STARTS = {
    "DataLoader": "multiprocessing_context",
    "ProcessPoolExecutor": "mp_context",
    "start_processes": "start_method",
}
"""What starts processes, and the argument that says how."""
FORKS = ("multiprocessing.Process", "multiprocessing.Pool", "os.fork", "Process", "Pool")


def test_no_process_is_forked() -> None:
    root = Path(__file__).parents[3]
    for path in (
        path for room in ("pipeline", "training", "jobs") for path in (root / room).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant):
                assert node.value != "fork", f"{path}:{node.lineno}"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in FORKS, f"{path}:{node.lineno} {called} forks"
                argument = STARTS.get(called.rpartition(".")[2])
                given = [keyword.arg for keyword in node.keywords]  # None: **options
                assert argument is None or {None, argument} & set(given), f"{path}:{node.lineno}"
