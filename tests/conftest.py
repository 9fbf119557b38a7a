"""Fixtures that many tests share: real photographs where they exist, one Ray for the session."""

import atexit
import gc
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
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from pipeline.core.memory import collect_garbage_rarely
from pipeline.shardset.manifest import DatasetInfo
from tests.s3_server import Bucket, s3_server
from tests.shard_sets import write_images

ROOT = Path(__file__).resolve().parent.parent
FORKED = (
    *("training.data.stream", "training.engine.local", "training.evaluate.run", "timm"),
    "tests.faults.lives",
)
"""What the processes that the fork server forks would import, each for seconds."""

WHOLE = ("benchmarks", "goldens", "integration", "jobs")
"""The folders of tests that run whole jobs or trainings: their files take long."""
RAY_FILES: set[Path] = set()
"""The files of tests that use Ray."""

gc.disable()  # until all tests are imported: collections take two fifths of that time


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Files in tests' parameters are no names; some hold what is drawn when they are made."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that use Ray come first, then those of whole jobs, in the random order that all are in.

    A file runs in one process (`--dist loadfile`): a long one at the end would run alone. And a Ray
    that waits takes 4 % of a core.
    """
    whole = {item.path for item in items if _is_whole(item)}
    RAY_FILES.update(item.path for item in items if _uses_ray(item))
    items.sort(key=lambda item: (item.path not in RAY_FILES, item.path not in whole))


def pytest_collection_finish() -> None:
    """Leaves what was imported out of every later garbage collection: millions of objects."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # for the last collection: nanobind would call them leaks
    collect_garbage_rarely()  # as jobs do
    gc.enable()


def _is_whole(item: pytest.Item) -> bool:
    return item.path.relative_to(ROOT / "tests").parts[0] in WHOLE


def _uses_ray(item: pytest.Item) -> bool:
    return "ray_session" in getattr(item, "fixturenames", ())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ends the Ray of the files before, in a file that does not use it."""
    ray = sys.modules.get("ray")
    if item.path not in RAY_FILES and ray is not None and ray.is_initialized():
        ray.shutdown()


# Hypothesis draws the same examples in every run.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None)
hypothesis.settings.load_profile("tests")


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and, where it is imported, torch on the CPU.

    Not `torch.manual_seed`: without a GPU it formats its caller's whole stack, for 2 ms.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries draw from it)
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(seed)


@pytest.hookimpl(tryfirst=True)  # within the call: pytest-randomly has seeded by the time of day
def pytest_pyfunc_call() -> None:
    """Seeds each test, so that it draws the same numbers in any order of tests."""
    seed_everything(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Seeds each fixture, of any scope, by its name: it draws other numbers than its test."""
    seed_everything(zlib.crc32(fixturedef.argname.encode()))


@pytest.fixture(scope="session", autouse=True)
def fork_server_for_all() -> Iterator[None]:
    """The first use of the fork server decides what it imports: what ranks, loaders, tasks want."""
    own = forkserver.set_forkserver_preload

    def for_all(names: Sequence[str]) -> None:
        own(list(dict.fromkeys([*names, *FORKED])))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forkserver, "set_forkserver_preload", for_all)
        for_all(["__main__"])
        yield


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


@pytest.fixture
def ray_session() -> None:
    """One local Ray with two CPUs for all files of a process that use it: starting takes seconds.

    It ends with the process, or with the first file behind them.
    """
    import ray

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)


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
