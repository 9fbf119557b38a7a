"""The job under torchrun, on a machine without Ray: the same record as in one process."""

import sys
from pathlib import Path

import pytest

from tests.pretrain_jobs import command, record, run_job, write_sets
from tests.runs import EVALUATED

SMALL_STEPS = ("--epochs", "1", "--knn.every-epochs", "1", "--optim.lr", "1e-5")


def torchrun(shards: Path, out: Path, *options: str) -> list[str]:
    job = command(shards, out, *SMALL_STEPS, *options)
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [sys.executable, *ranks, *job[1:]]


def test_two_processes_of_torchrun_train_as_one(tmp_path: Path) -> None:
    write_sets(tmp_path)
    said = run_job(torchrun(tmp_path, tmp_path / "two"), tmp_path / "two.txt")
    assert said.count("finished 8 steps") == 1  # said by one of them
    run_job(command(tmp_path, tmp_path / "one", "--local", *SMALL_STEPS), tmp_path / "one.txt")
    ours, theirs = record(tmp_path / "two"), record(tmp_path / "one")
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.get("samples_seen") == other.get("samples_seen")
        for name in one.keys() - {"samples_seen", "kind", *EVALUATED}:
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), (name, one["step"])


def test_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    write_sets(tmp_path)
    with pytest.raises(AssertionError, match="but torchrun started 2 processes: leave it out"):
        run_job(torchrun(tmp_path, tmp_path / "two", "--num-workers", "3"), tmp_path / "two.txt")
