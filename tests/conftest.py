"""Fixtures that many tests share: real photographs where they exist, one Ray for the session."""

import os

# One thread for arithmetic: the tests' processes share few cores, and the sums stay the same.
os.environ["OMP_NUM_THREADS"] = "1"
# What the S3 server of the tests is told, by every process they start; nobody else's are used.
os.environ |= {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_EC2_METADATA_DISABLED": "true",
}

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.manifest import DatasetInfo
from tests.s3_server import Bucket, s3_server
from tests.shard_sets import write_images

ROOT = Path(__file__).resolve().parent.parent
RAY = pytest.mark.xdist_group("ray")
"""What starts Ray or a cluster runs in one of the test processes, one test at a time."""


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share the session's Ray, or are marked as starting one."""
    for item in items:
        own = item.get_closest_marker("starts_ray") is not None
        if own or "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker(RAY)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of float64 reference values."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs; skips where it is absent."""
    folder = Path(os.environ.get("SALMASK_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real photographs at {folder} (set SALMASK_SHARED)")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray with two CPUs for the whole session: starting it takes seconds."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def make_labelled_shards() -> Callable[..., DatasetInfo]:
    """Writes a small shard set of PNGs: `(root, images, labels, class_names) -> DatasetInfo`.

    Labels are indices into the class names; without class names the set has no labels.
    """
    return write_images


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of an S3 server on loopback, for the whole session."""
    with s3_server() as port:
        yield port


@pytest.fixture
def bucket(s3_port: int) -> Iterator[Bucket]:
    """An empty bucket on the S3 server."""
    made = Bucket(s3_port)
    yield made
    made.wire.cut()
