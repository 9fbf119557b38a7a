"""A process that dies or hangs over an image costs that image, and nothing else."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.precompute.build import ShardJob, ensure_shard
from pipeline.precompute.isolation import Isolation, ShardError
from pipeline.precompute.isolation_child import Limits
from pipeline.precompute.plan_files import planned_rows
from pipeline.saliency.controls import Uniform
from pipeline.saliency.interface import SaliencySource
from pipeline.shardset.schema import manifest_path, rejected_path, shard_path
from tests.deadly import (
    DeadlyDecoder,
    DeadlySaliency,
    DiesAlways,
    DiesInCompany,
    KilledFromOutside,
    TellsItsProcess,
    write_pictures,
)
from tests.shard_jobs import job_of_folder, out_of

NAME = "shard-000000"
LIMITS = Limits(cpu_seconds=1, wall_seconds=60, memory_bytes=256 << 20)
REASONS = {
    "crash": "kills the decoder (signal 11)",
    "abort": "kills the decoder (signal 6)",
    "leave": "ends the decoder's process (exit code 3)",
    "spin": "needs more than 1 s of CPU time",
    "sleep": "takes more than 2 s",
    "hoard": "needs more memory than its size allows",
}


def job_for(root: Path, saliency: SaliencySource, out: str = "out") -> ShardJob:
    return job_of_folder(root / "data", root / out, saliency)


def files(job: ShardJob) -> list[bytes]:
    paths = [at(out_of(job), NAME) for at in (shard_path, manifest_path, rejected_path)]
    return [path.read_bytes() for path in paths]


@pytest.fixture
def isolation() -> Iterator[Isolation]:
    isolation = Isolation(LIMITS)
    yield isolation
    isolation.close()


@pytest.mark.parametrize(
    ("place", "death"),
    [
        *((DeadlyDecoder, death) for death in sorted(REASONS)),
        (DeadlySaliency, "crash"),
        (DeadlySaliency, "spin"),
    ],
)
def test_a_deadly_image_costs_itself(
    tmp_path: Path, place: type[DeadlyDecoder | DeadlySaliency], death: str
) -> None:
    write_pictures(tmp_path / "data", 3, poisoned=[1])
    job = job_for(tmp_path, place(death=death))
    # the time on the clock is short only where it is what counts: the machine may be busy
    isolation = Isolation(replace(LIMITS, wall_seconds=2) if death == "sleep" else LIMITS)
    built = isolation.build(job)
    isolation.close()
    assert (built.info.num_images, built.num_rejected, built.rebuilt) == (2, 1, True)
    rejected = pq.read_table(rejected_path(out_of(job), NAME)).to_pylist()
    assert rejected == [{"source": "001.png", "reason": REASONS[death]}]
    # the same as where it was known before
    known = job_for(tmp_path, Uniform(), out="known")
    ensure_shard(replace(known, rejected={"001.png": REASONS[death]}))
    assert files(job) == files(known)


def test_several_deadly_images_are_all_found(tmp_path: Path, isolation: Isolation) -> None:
    write_pictures(tmp_path / "data", 20, poisoned=[3, 4, 18])
    job = job_for(tmp_path, DeadlySaliency(death="crash"))
    built = isolation.build(job)
    assert (built.info.num_images, built.num_rejected) == (17, 3)
    sources = pq.read_table(rejected_path(out_of(job), NAME))["source"].to_pylist()
    planned = planned_rows(job.out, 0)["source"].to_pylist()
    assert sources == [s for s in planned if s in {"003.png", "004.png", "018.png"}]


@pytest.mark.parametrize("times", [1, 2])
def test_a_process_killed_from_outside_costs_no_image(
    tmp_path: Path, isolation: Isolation, times: int
) -> None:
    write_pictures(tmp_path / "data", 20)
    (tmp_path / "deaths").mkdir()
    job = job_for(tmp_path, KilledFromOutside(folder=str(tmp_path / "deaths"), times=times))
    built = isolation.build(job)
    assert (built.info.num_images, built.num_rejected) == (20, 0)
    undisturbed = job_for(tmp_path, Uniform(), out="undisturbed")
    ensure_shard(undisturbed)
    assert files(job) == files(undisturbed)


def test_a_shard_that_dies_without_a_culprit_fails_by_name(
    tmp_path: Path, isolation: Isolation
) -> None:
    write_pictures(tmp_path / "data", 3)
    job = job_for(tmp_path, DiesInCompany())
    last = planned_rows(job.out, 0)["source"][-1].as_py()
    with pytest.raises(
        ShardError, match=rf"{NAME} .* \(signal 11\), last at {last}, which passes alone \(3 tries"
    ):
        isolation.build(job)
    assert not shard_path(out_of(job), NAME).exists()


def test_a_source_that_kills_any_process_blames_no_image(
    tmp_path: Path, isolation: Isolation
) -> None:
    write_pictures(tmp_path / "data", 3)
    job = job_for(tmp_path, DiesAlways())
    with pytest.raises(ShardError, match=r"the saliency source's process .* plain picture"):
        isolation.build(job)
    assert not rejected_path(out_of(job), NAME).exists()


def test_errors_travel_and_the_child_stays(tmp_path: Path, isolation: Isolation) -> None:
    write_pictures(tmp_path / "data", 3)
    job = job_for(tmp_path, TellsItsProcess(path=str(tmp_path / "pid")))
    (tmp_path / "data" / "001.png").rename(tmp_path / "elsewhere.png")
    with pytest.raises(InputError, match=r"001\.png has vanished"):
        isolation.build(job)
    (tmp_path / "out" / "shards").rename(tmp_path / "out" / "away")
    (tmp_path / "out" / "shards").write_text("a file where a folder is wanted")
    (tmp_path / "elsewhere.png").rename(tmp_path / "data" / "001.png")
    with pytest.raises(FileExistsError):
        isolation.build(job)
    (tmp_path / "out" / "shards").unlink()
    assert isolation.build(job).rebuilt
    first = (tmp_path / "pid").read_text()
    shard_path(out_of(job), NAME).unlink()
    assert isolation.build(job).rebuilt
    assert (tmp_path / "pid").read_text() == first, "the child is warm for the next shard"
    assert not isolation.build(job).rebuilt
