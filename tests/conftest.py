"""Fixtures that many tests share: real photographs where they exist, one Ray for the session."""

import os

# One thread for arithmetic: the tests' processes share few cores, and the sums stay the same.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.manifest import DatasetInfo
from tests.shard_sets import write_images

ROOT = Path(__file__).resolve().parent.parent


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
