"""Ranks on Ray: they meet, agree, and the first error ends all of them."""

import pytest
import torch
from torch import distributed as dist

from jobs.ray_group import run_on_ray
from pipeline.core.errors import InputError
from pipeline.core.progress import Standing, listening, say, show
from tests.listeners import Kept
from training.core.distributed import gather_rows, rank, world_size

pytestmark = pytest.mark.usefixtures("ray_session")


def _met(factor: int, device: torch.device) -> list[float]:
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    rows = gather_rows(torch.tensor([[float(factor * (rank() + 1))]]))
    return [float(world_size()), *rows[:, 0].tolist()]


def _fails(_: int, __: torch.device) -> None:
    if rank() == 1:
        raise InputError("rank 1 does not want to")
    dist.barrier()  # for ever, if nobody ended it


def test_every_rank_takes_part() -> None:
    assert run_on_ray(_met, 10, 2) == [2.0, 10.0, 20.0]


def _tells(_: int, __: torch.device) -> None:
    say(f"rank {rank()}")
    show(Standing(work="waiting", done=rank() + 1, total=9, unit="ranks"))


def test_what_the_first_rank_tells_is_told_here() -> None:
    kept = Kept()
    with listening(kept):
        run_on_ray(_tells, 0, 2)
    assert kept.lines == ["rank 0"]
    assert kept.standings == [Standing(work="waiting", done=1, total=9, unit="ranks")]


def test_the_first_error_ends_all() -> None:
    with pytest.raises(InputError, match="rank 1 does not want to"):
        run_on_ray(_fails, 0, 2)


def test_more_workers_than_the_cluster_holds() -> None:
    with pytest.raises(InputError, match="99 workers were asked for"):
        run_on_ray(_met, 10, 99)
