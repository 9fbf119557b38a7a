"""Connections to buckets: regions, and processes that are forked."""

import ast
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipeline.storage.base import Store, StoreError
from pipeline.storage.bucket import bucket_region
from pipeline.storage.storage import open_store
from tests.s3_server import Bucket

ROOT = Path(__file__).parents[3]
ROOMS = ("pipeline", "training", "jobs")
FORKS = ("multiprocessing.Process", "multiprocessing.Pool", "os.fork", "Process", "Pool")


def test_the_region_of_a_bucket_is_asked_for(bucket: Bucket) -> None:
    name = f"{bucket.name}eu"
    where = {"LocationConstraint": "eu-central-1"}
    bucket.client.create_bucket(Bucket=name, CreateBucketConfiguration=where)
    address = f"http://127.0.0.1:{bucket.server_port}"
    assert bucket_region(name, address) == "eu-central-1"
    assert bucket_region("nosuchbucket", address) is None
    assert bucket_region(name, "http://127.0.0.1:1") is None


def test_a_failed_question_for_the_region_is_asked_again() -> None:
    statuses = [503, 500, 301]

    class Failing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(statuses.pop(0))
            self.send_header("x-amz-bucket-region", "eu-west-1" if not statuses else "wrong")
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            region = bucket_region("any", f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
    assert region == "eu-west-1"
    assert statuses == []


def read(store: Store) -> bytes | str:
    try:
        return store.read("x")
    except StoreError as error:
        return str(error)


@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_a_process_reads_unless_it_was_forked_from_one_that_did(
    bucket: Bucket, method: str
) -> None:
    bucket.put("x", b"1")
    store = open_store(bucket.url())
    assert store.read("x") == b"1"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        answer = pool.submit(read, store).result(timeout=60)
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


def test_no_process_is_forked() -> None:
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant):
                assert node.value != "fork", f"{path}:{node.lineno}"
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in FORKS, f"{path}:{node.lineno} {called} forks"
            argument = STARTS.get(called.rpartition(".")[2])
            given = [keyword.arg for keyword in node.keywords]
            if argument is not None and None not in given:  # None: **options
                assert argument in given, f"{path}:{node.lineno} {called} has no {argument}"
