"""The job under torchrun, on a machine without Ray: the same record as in one process."""

from pathlib import Path

import pytest

from jobs.pretrain import run as pretrain
from tests.job_here import job_here
from tests.pretrain_jobs import command, record, run_job, write_sets
from tests.runs import EVALUATED

SMALL_STEPS = ("--epochs", "1", "--knn.every-epochs", "1", "--optim.lr", "1e-5")


def test_two_processes_of_torchrun_train_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sets(tmp_path, steps_per_epoch=4)
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    job = command(tmp_path, tmp_path / "two", *SMALL_STEPS)
    said = run_job([job[0], *ranks, *job[1:]], tmp_path / "two.txt")
    assert said.count("finished 4 steps") == 1  # said by one of them
    alone = job_here(pretrain, monkeypatch, capsys)
    assert alone(*command(tmp_path, tmp_path / "one", "--local", *SMALL_STEPS)[2:]).code == 0
    ours, theirs = record(tmp_path / "two"), record(tmp_path / "one")
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.get("samples_seen") == other.get("samples_seen")
        for name in one.keys() - {"samples_seen", "kind", *EVALUATED}:
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), (name, one["step"])
