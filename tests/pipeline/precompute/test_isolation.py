"""A process that dies or hangs over an image costs that image, and nothing else."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.precompute.build import ShardJob, ensure_shard
from pipeline.precompute.isolation import Isolation, Limits
from pipeline.saliency.controls import Uniform
from pipeline.saliency.interface import SaliencySource
from pipeline.shardset.manifest import read_rejected
from pipeline.shardset.schema import rejected_file, shard_file
from pipeline.storage.atomic import TEMPORARY_SUFFIX
from tests.deadly import (
    DeadlyDecoder,
    DeadlySaliency,
    DiesAlways,
    DiesInCompany,
    KilledFromOutside,
    TellsItsProcess,
    write_pictures,
)
from tests.picture_folders import contents
from tests.shard_jobs import job_of_folder, out_of

NAME = "shard-000000"
TAR = shard_file(NAME)
LIMITS = Limits(cpu_seconds=1, wall_seconds=60, memory_bytes=256 << 20)
REASONS = {
    "crash": "kills the decoder (signal 11)",
    "leave": "ends the decoder's process (exit code 3)",
    "spin": "needs more than 1 s of CPU time",
    "hoard": "needs more memory than its size allows",
    "sleep": "takes more than 2 s",
}


def job_for(root: Path, saliency: SaliencySource, out: str = "out") -> ShardJob:
    return job_of_folder(root / "data", root / out, saliency)


def whole_files(job: ShardJob) -> dict[str, str]:
    """What a shard left, without what a killed process wrote: the end of a run removes that."""
    found = contents(out_of(job))
    return {name: digest for name, digest in found.items() if not name.endswith(TEMPORARY_SUFFIX)}


@pytest.fixture
def isolation() -> Iterator[Isolation]:
    isolation = Isolation(LIMITS)
    yield isolation
    isolation.close()


@pytest.mark.parametrize(
    ("source", "deaths"),
    [
        (DeadlyDecoder(), ["crash", "leave", "spin", "hoard"]),
        (DeadlyDecoder(), ["sleep"]),
        (DeadlySaliency(), ["spin"]),
    ],
)
def test_deadly_images_cost_themselves(
    tmp_path: Path, source: SaliencySource, deaths: list[str]
) -> None:
    poisoned = {2 * number + 1: death for number, death in enumerate(deaths)}
    count = 2 * len(deaths) + 1  # the CPU time of a batch grows with its images
    write_pictures(tmp_path / "data", count, poisoned)
    job = job_for(tmp_path, source)
    # the elapsed time is short only where it is what counts: the machine may be busy
    isolation = Isolation(replace(LIMITS, wall_seconds=2) if "sleep" in deaths else LIMITS)
    built = isolation.build(job)
    isolation.close()
    assert built.info.num_images == count - len(deaths)
    rejected = {f"{number:03d}.png": REASONS[death] for number, death in poisoned.items()}
    listed = read_rejected(job.out, NAME).to_pylist()
    assert {row["source"]: row["reason"] for row in listed} == rejected
    # the same as where it was known before
    known = job_for(tmp_path, Uniform(), out="known")
    ensure_shard(replace(known, rejected=rejected))
    assert whole_files(job) == whole_files(known)


def test_a_process_killed_from_outside_costs_no_image(tmp_path: Path, isolation: Isolation) -> None:
    write_pictures(tmp_path / "data", 5)
    (tmp_path / "deaths").mkdir()
    job = job_for(tmp_path, KilledFromOutside(folder=str(tmp_path / "deaths"), times=3))
    built = isolation.build(job)
    assert (built.info.num_images, built.num_rejected) == (5, 0)
    undisturbed = job_for(tmp_path, Uniform(), out="undisturbed")
    ensure_shard(undisturbed)
    assert whole_files(job) == whole_files(undisturbed)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (DiesInCompany(), r"\(signal 11\), though each of its images passes alone \(3 tries\)"),
        (DiesAlways(), r"the saliency source's process kills .* even with a plain picture"),
    ],
)
def test_a_death_that_is_no_images_fault_fails_the_shard_by_name(
    tmp_path: Path, isolation: Isolation, source: SaliencySource, words: str
) -> None:
    write_pictures(tmp_path / "data", 3)
    job = job_for(tmp_path, source)
    with pytest.raises(InputError, match=rf"{NAME} cannot be made: .*{words}"):
        isolation.build(job)
    assert job.out.size(TAR) is None
    assert job.out.size(rejected_file(NAME)) is None


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
    (out_of(job) / TAR).unlink()
    assert isolation.build(job).rebuilt
    assert (tmp_path / "pid").read_text() == first, "the child is warm for the next shard"
    assert not isolation.build(job).rebuilt
