"""The Ray Data job against a bare pool of processes that does the same work, in one run.

Both have their processes warm and their imports done. They take turns, so that whoever else uses
the machine is in both figures; the medians are compared. Their tars are the same, byte for byte.
"""

import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path

import cv2
import PIL
import pytest
import ray

from pipeline.precompute.plan_files import all_planned_rows, read_plan
from pipeline.precompute.ray_job import PrecomputeConfig, precompute
from pipeline.saliency.registry import parse_saliency_source
from pipeline.shardset.schema import SHARDS_FOLDER
from pipeline.storage.storage import open_store
from tests.benchmarks.bare_loop import Tar, only_decode, write_tar

pytestmark = pytest.mark.benchmark

CORES = len(os.sched_getaffinity(0))
ROUNDS = 3
MIN_IMAGES, SMALL_IMAGES = 6_000, 64
SMALL_SHARD = SMALL_IMAGES // (4 * CORES)
MIN_RATIO = 0.90


@pytest.fixture(scope="module")
def running_ray() -> Iterator[None]:
    # Ray's workers are of niceness 15 by default: whatever else runs would slow down one side only
    ray.init(
        address="local",
        num_cpus=CORES,
        include_dashboard=False,
        log_to_driver=False,
        _system_config={"worker_niceness": 0},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with get_context("spawn").Pool(CORES) as processes:
        yield processes


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> Path:
    folder = shared_data / "imagenette160"
    assert sum(1 for _ in folder.rglob("*.jpg")) >= MIN_IMAGES
    return folder


@pytest.fixture(scope="module")
def few(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of them: a job as small as jobs get, for what a job costs by itself."""
    folder = tmp_path_factory.mktemp("few")
    for photograph in sorted(photographs.rglob("*.jpg"))[:: MIN_IMAGES // SMALL_IMAGES]:
        copy = folder / photograph.relative_to(photographs)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photograph, copy)
    return folder


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def planned_tars(out: Path, folder: Path, data: Path, saliency: str) -> list[Tar]:
    """The tars of a finished set, for the bare loop to make: it is given the plan."""
    folder.mkdir(exist_ok=True)
    plan = read_plan(open_store(out))
    assert plan is not None
    rows = all_planned_rows(open_store(out)).select(["source", "label"]).to_pylist()
    images = [(row["source"], row["label"]) for row in rows]
    source, tars = parse_saliency_source(saliency), []
    per_shard = int(str(plan.parameters["shard_images"]))
    for number, start in enumerate(range(0, len(images), per_shard)):
        path = folder / f"shard-{number:06d}.tar"
        tars.append(Tar(path, data, tuple(images[start : start + per_shard]), source))
    return tars


def report(name: str, laps: list[float], num_images: int) -> float:
    """Print the median and the spread; return the median."""
    median = statistics.median(laps)
    print(
        f"  {name:<34} {median:7.2f} s ({min(laps):.2f} to {max(laps):.2f}), "
        f"{num_images / median / CORES:7.1f} images/s and core"
    )
    return median


@pytest.mark.usefixtures("running_ray")
@pytest.mark.parametrize("saliency", ["boundary", "fine_grained"])
def test_against_a_bare_loop(
    saliency: str, pool: Pool, photographs: Path, few: Path, tmp_path: Path
) -> None:
    num_outs = 0

    def job(data: Path, shard_images: int = 256) -> Path:
        nonlocal num_outs
        num_outs += 1
        out = tmp_path / f"out-{num_outs}"
        precompute(
            PrecomputeConfig(data=data, out=out, saliency=saliency, shard_images=shard_images)
        )
        return out

    def bare(tars: list[Tar], work: Callable[[Tar], int] = write_tar) -> None:
        assert sum(pool.imap_unordered(work, tars)) == sum(len(tar.images) for tar in tars)

    small_tars = planned_tars(job(few, SMALL_SHARD), tmp_path / "small", few, saliency)
    bare(small_tars)  # both sides are warm now
    laps: dict[str, list[float]] = {"job": [], "bare": [], "small job": [], "small bare": []}
    decoding = []
    for _ in range(ROUNDS):
        laps["small job"].append(timed(lambda: job(few, SMALL_SHARD)))
        laps["small bare"].append(timed(lambda: bare(small_tars)))
        laps["job"].append(timed(lambda: job(photographs)))
        tars = planned_tars(tmp_path / f"out-{num_outs}", tmp_path / "bare", photographs, saliency)
        laps["bare"].append(timed(partial(bare, tars)))
        decoding.append(timed(partial(bare, tars, only_decode)))
        for tar in tars:
            made = tmp_path / f"out-{num_outs}" / SHARDS_FOLDER / tar.path.name
            assert made.read_bytes() == tar.path.read_bytes()
    num_images = sum(len(tar.images) for tar in tars)
    num_small = sum(len(tar.images) for tar in small_tars)
    print(
        f"\n{saliency}, {num_images} photographs in {len(tars)} shards: {CORES} cores, "
        f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, "
        f"ray {ray.__version__}, OpenCV {cv2.__version__}, Pillow {PIL.__version__}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    medians = {
        name: report(f"{name}, whole", some, num_images)
        for name, some in laps.items()
        if "small" not in name
    }
    small = {
        name: report(f"{name} of {num_small}", laps[name], num_small)
        for name in ("small job", "small bare")
    }
    report("decode alone, bare", decoding, num_images)
    whole = medians["bare"] / medians["job"]
    steady = (medians["bare"] - small["small bare"]) / (medians["job"] - small["small job"])
    print(f"  ratio, whole: {whole:.3f}; beyond the first {num_small} images: {steady:.3f}")
    assert steady >= MIN_RATIO
