"""Ranks on Ray Train: they meet, agree, and the first error ends all of them."""

from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from pipeline.core.errors import Diverged, InputError
from pipeline.core.progress import Standing, listening, say, show
from tests.listeners import Kept
from training.core.distributed import gather_rows, rank, world_size
from training.ray.workers import call_on_workers

pytestmark = pytest.mark.usefixtures("ray_session")


def _met(factor: int, device: torch.device) -> list[float]:
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    say(f"rank {rank()}")
    show(Standing(work="waiting", done=rank() + 1, total=9, unit="ranks"))
    rows = gather_rows(torch.tensor([[float(factor * (rank() + 1))]]))
    return [float(world_size()), *rows[:, 0].tolist()]


def _fails(_: int, __: torch.device) -> None:
    if rank() == 1:
        raise Diverged("rank 1 has diverged")
    dist.barrier()  # for ever, if nobody ended it


def _is_defect(_: int, __: torch.device) -> None:
    raise ZeroDivisionError("a defect")


def test_every_rank_takes_part_and_the_first_is_heard_here(tmp_path: Path) -> None:
    kept, folder = Kept(), tmp_path / "new" / "results"
    with listening(kept):
        assert call_on_workers(_met, 10, 2, folder) == [2.0, 10.0, 20.0]
    assert kept.lines == ["rank 0"]
    assert kept.standings == [Standing(work="waiting", done=1, total=9, unit="ranks")]
    assert list(folder.iterdir()) == [], "nothing is left behind"


def test_the_error_of_any_rank_ends_all_and_keeps_its_kind(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"^rank 1 has diverged$"):
        call_on_workers(_fails, 0, 2, tmp_path)
    with pytest.raises(Exception, match="a defect") as raised:
        call_on_workers(_is_defect, 0, 1, tmp_path)
    assert not isinstance(raised.value, InputError | Diverged)
    assert list(tmp_path.iterdir()) == []


def test_more_workers_than_the_cluster_holds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="99 workers were asked for"):
        call_on_workers(_met, 10, 99, tmp_path)
