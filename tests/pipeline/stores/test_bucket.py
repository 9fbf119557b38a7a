"""Connections to buckets: regions, and processes that are forked."""

import multiprocessing

import pytest

from pipeline.stores.bucket import bucket_region
from pipeline.stores.storage import Store, StoreError, open_store
from tests.s3_server import Bucket


def test_the_region_of_a_bucket_is_asked_for(bucket: Bucket) -> None:
    name = f"{bucket.name}eu"
    where = {"LocationConstraint": "eu-central-1"}
    bucket.client.create_bucket(Bucket=name, CreateBucketConfiguration=where)
    address = f"http://127.0.0.1:{bucket.server_port}"
    assert bucket_region(name, address) == "eu-central-1"
    assert bucket_region("nosuchbucket", address) is None
    assert bucket_region(name, "http://127.0.0.1:1") is None


def read(store: Store, answers: "multiprocessing.Queue[object]") -> None:
    try:
        answers.put(store.read("x"))
    except StoreError as error:
        answers.put(str(error))


@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_a_process_reads_unless_it_was_forked_from_one_that_did(
    bucket: Bucket, method: str
) -> None:
    bucket.put("x", b"1")
    store = open_store(bucket.url())
    assert store.read("x") == b"1"
    context = multiprocessing.get_context(method)
    answers: multiprocessing.Queue[object] = context.Queue()
    process = context.Process(target=read, args=(store, answers), daemon=True)
    process.start()
    answer = answers.get(timeout=60)
    process.join()
    if method == "fork":
        assert "start processes with spawn or forkserver" in str(answer)
    else:
        assert answer == b"1"
