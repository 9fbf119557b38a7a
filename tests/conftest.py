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

import random
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from pipeline.shardset.manifest import DatasetInfo
from tests.s3_server import Bucket, s3_server
from tests.shard_sets import write_images

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Ray or whole jobs come first, in the random order that all are in.

    A file runs in one process (`--dist loadfile`): a long one at the end would run alone.
    """
    whole = {item.path for item in items if _is_whole(item)}
    items.sort(key=lambda item: item.path not in whole)


def _is_whole(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    folder = item.path.relative_to(ROOT / "tests").parts[0]
    return "ray_session" in names or folder in ("benchmarks", "integration", "jobs")


# Hypothesis draws the same examples in every run.
hypothesis.settings.register_profile("tests", derandomize=True)
hypothesis.settings.load_profile("tests")


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and, where it is imported, torch."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries draw from it)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@pytest.hookimpl(tryfirst=True)  # within the call: pytest-randomly has seeded by the time of day
def pytest_pyfunc_call() -> None:
    """Seeds each test, so that it draws the same numbers in any order of tests."""
    seed_everything(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Seeds each fixture, of any scope, by its name: it draws other numbers than its test."""
    seed_everything(zlib.crc32(fixturedef.argname.encode()))


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
    """One local Ray with two CPUs for all tests of a process: starting it takes seconds."""
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
