"""The Ray Data job against a bare pool of processes that does the same work, in one run.

The pool decodes, maps and writes tars with the project's own decoder, saliency source and writer;
it has no store, no plan to make, no manifest, no temporary names, no process that may die. Both
have their processes warm and their imports done, and take turns. Their tars are the same, byte for
byte.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path

import pytest
import ray

from pipeline.images.codecs import encode_saliency
from pipeline.images.source_image import decode_source
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.plan import planned_shards, read_plan
from pipeline.precompute.ray_job import build_on_ray
from pipeline.precompute.run import run_precompute
from pipeline.saliency.interface import SaliencySource
from pipeline.saliency.registry import parse_saliency_source
from pipeline.shardset.schema import SALIENCY_SIZE, SHARDS_FOLDER
from pipeline.shardset.writer import ShardWriter
from pipeline.storage.storage import open_store
from tests.benchmarks.timing import in_turns, machine, show_medians

pytestmark = pytest.mark.benchmark

CORES = len(os.sched_getaffinity(0))
ROUNDS = 3
MIN_IMAGES, SMALL_IMAGES = 6_000, 64
SHARD, SMALL_SHARD = 256, SMALL_IMAGES // (4 * CORES)
MIN_RATIO = 0.90


@dataclass(frozen=True)
class Tar:
    """A tar to write: its path, where its images lie, their sources and labels."""

    path: Path
    data: Path
    images: tuple[tuple[str, int], ...]
    saliency: SaliencySource


def write_tar(tar: Tar) -> None:
    with tar.path.open("wb") as file:
        writer = ShardWriter(file, tar.path.stem)
        size = tar.saliency.batch_images
        for start in range(0, len(tar.images), size):
            batch = tar.images[start : start + size]
            read = [(tar.data / source).read_bytes() for source, _ in batch]
            decoded = [decode_source(data) for data in read]
            maps = tar.saliency([one.pixels for one in decoded])
            for (source, label), data, one, saliency in zip(
                batch, read, decoded, maps, strict=True
            ):
                height, width = one.pixels.shape[:2]
                about = {"source": source, "width": width, "height": height, "label": label}
                about |= {"sha256": sha256(data).hexdigest()}
                levels = encode_saliency(saliency, SALIENCY_SIZE)
                writer.add(one.stored_bytes, one.ext, levels, about)
        writer.finish()


def only_decode(tar: Tar) -> None:
    for source, _ in tar.images:
        decode_source((tar.data / source).read_bytes())


def planned_tars(out: Path, folder: Path, data: Path, saliency: str) -> list[Tar]:
    """The tars of a finished set, for the bare loop to make: it is given the plan."""
    folder.mkdir()
    plan, source, tars = read_plan(open_store(out)), parse_saliency_source(saliency), []
    assert plan is not None
    images = [
        (row["source"], row["label"])
        for shard in planned_shards(open_store(out))
        for row in shard.select(["source", "label"]).to_pylist()
    ]
    size = int(str(plan.parameters["shard_images"]))
    for number, start in enumerate(range(0, len(images), size)):
        path = folder / f"shard-{number:06d}.tar"
        tars.append(Tar(path, data, tuple(images[start : start + size]), source))
    return tars


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


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    # Ray's workers are of niceness 15 by default: whatever else runs would slow down one side only.
    ray.init(
        address="local",
        num_cpus=CORES,
        include_dashboard=False,
        log_to_driver=False,
        _system_config={"worker_niceness": 0},
    )
    with get_context("spawn").Pool(CORES) as processes:
        yield processes
    ray.shutdown()


@pytest.mark.parametrize("saliency", ["boundary", "fine_grained"])
def test_against_a_bare_loop(
    saliency: str, pool: Pool, photographs: Path, few: Path, tmp_path: Path
) -> None:
    def job(data: Path, shard_images: int, out: Path) -> Path:
        config = PrecomputeConfig(data=data, out=out, saliency=saliency, shard_images=shard_images)
        run_precompute(config, build_on_ray)
        return out

    def bare(tars: list[Tar], work: Callable[[Tar], None] = write_tar) -> None:
        assert len(list(pool.imap_unordered(work, tars))) == len(tars)

    whole_set = job(photographs, SHARD, tmp_path / "whole")
    tars = planned_tars(whole_set, tmp_path / "bare", photographs, saliency)
    small_set = job(few, SMALL_SHARD, tmp_path / "few")
    small_tars = planned_tars(small_set, tmp_path / "bare-few", few, saliency)
    times = in_turns(
        {
            "job, whole": lambda n: job(photographs, SHARD, tmp_path / f"whole-{n}"),
            "bare, whole": lambda _: bare(tars),
            "small job": lambda n: job(few, SMALL_SHARD, tmp_path / f"few-{n}"),
            "small bare": lambda _: bare(small_tars),
            "decode alone, bare": lambda _: bare(tars, only_decode),
        },
        ROUNDS,
        now=time.perf_counter,
    )
    for tar in tars:
        made = tmp_path / f"whole-{ROUNDS}" / SHARDS_FOLDER / tar.path.name
        assert made.read_bytes() == tar.path.read_bytes()
    num_images = sum(len(tar.images) for tar in tars)
    print(
        f"\n{saliency}, {num_images} photographs in {len(tars)} shards, {SMALL_IMAGES} in a small "
        f"job: {CORES} cores, {machine('ray', 'pillow')}"
    )
    s = show_medians(times, "s", 1.0)
    print(f"  {num_images / s['job, whole'] / CORES:.1f} images/s and core")
    whole = s["bare, whole"] / s["job, whole"]
    steady = (s["bare, whole"] - s["small bare"]) / (s["job, whole"] - s["small job"])
    print(f"  ratio, whole: {whole:.3f}; beyond the first {SMALL_IMAGES} images: {steady:.3f}")
    assert steady >= MIN_RATIO
