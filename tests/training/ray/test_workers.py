"""Ranks on Ray Train: they meet, agree, and the first error ends all of them."""

from pathlib import Path

import pytest
import torch
from ray.exceptions import RayActorError
from ray.train.v2.api.exceptions import WorkerGroupError
from torch import distributed as dist

from pipeline.core.errors import DamagedSample, Diverged, InputError
from pipeline.core.progress import Standing, listening, say, show
from tests.listeners import Kept
from training.core.distributed import gather_rows, rank, world_size
from training.ray import workers
from training.ray.workers import call_on_workers, job_error

pytestmark = pytest.mark.usefixtures("ray_session")


def _meets_and_fails(factor: int, device: torch.device) -> None:
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    say(f"rank {rank()}")
    show(Standing(work="waiting", done=rank() + 1, total=9, unit="ranks"))
    rows = gather_rows(torch.tensor([[float(factor * (rank() + 1))]]))
    if rank() == 1:
        raise Diverged(f"of {world_size()} ranks with {rows[:, 0].tolist()} one has diverged")
    dist.barrier()  # for ever, if nobody ended it


def test_ranks_meet_the_first_is_heard_and_the_error_of_any_ends_all_and_keeps_its_kind(
    tmp_path: Path,
) -> None:
    kept, folder = Kept(), tmp_path / "new" / "results"
    message = r"^of 2 ranks with \[10\.0, 20\.0\] one has diverged$"
    with listening(kept), pytest.raises(Diverged, match=message):
        call_on_workers(_meets_and_fails, 10, 2, folder)
    assert kept.lines == ["rank 0"]
    assert kept.standings == [Standing(work="waiting", done=1, total=9, unit="ranks")]
    assert list(folder.iterdir()) == [], "nothing is left behind"


def test_only_an_error_of_the_job_is_known() -> None:
    """A defect keeps Ray's words: its traceback is wanted."""
    defect, known = ZeroDivisionError("a defect"), RuntimeError("in a worker")
    known.__cause__ = DamagedSample("sample a-1 is damaged")
    assert job_error(WorkerGroupError("", {0: defect})) is None
    found = job_error(WorkerGroupError("", {0: defect, 1: known}))
    assert (type(found), str(found)) == (DamagedSample, "sample a-1 is damaged")
    assert job_error(RayActorError()) is None


def test_a_defect_is_raised_as_ray_raises_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defect = WorkerGroupError("a defect", {0: ZeroDivisionError("a defect")})

    class Fails:
        def fit(self) -> None:
            raise defect

    monkeypatch.setattr(workers, "make_trainer", lambda *_: Fails())
    with pytest.raises(WorkerGroupError) as raised:
        call_on_workers(_meets_and_fails, 10, 2, tmp_path)
    assert raised.value is defect
    assert list(tmp_path.iterdir()) == []


def test_more_workers_than_the_cluster_holds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="99 workers were asked for"):
        call_on_workers(_meets_and_fails, 10, 99, tmp_path)
