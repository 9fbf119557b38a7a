"""Numbers that add up over steps, restarts and (in two real processes) ranks."""

from pathlib import Path

import torch
from torch import distributed as dist

from tests.ranks import in_ranks
from training.record.tally import Tally

HUGE = (1 << 64) - 1


def test_totals_add_up_modulo_a_word_and_go_on_after_a_restart() -> None:
    tally = Tally("few", "huge")
    tally.add(few=2, huge=HUGE)
    assert tally.totals() == {"few": 2, "huge": HUGE}
    tally.add(few=1)
    tally.add(few=4, huge=3)
    assert tally.totals() == tally.totals() == {"few": 7, "huge": 2}
    resumed = Tally("few", "huge")
    resumed.load_state_dict(tally.state_dict())
    resumed.add(few=1)
    assert resumed.totals() == {"few": 8, "huge": 2}


def _in_rank(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    tally = Tally("few", "huge")
    tally.load_state_dict({"few": 100, "huge": 0})  # what a checkpoint holds is of all ranks
    tally.add(few=number + 1, huge=HUGE)
    totals = tally.totals()
    assert tally.totals() == totals
    torch.save(totals, Path(folder) / f"rank{number}.pt")
    dist.destroy_process_group()


def test_ranks_add_up(tmp_path: Path) -> None:
    in_ranks(_in_rank, 2, str(tmp_path))
    for number in range(2):
        totals = torch.load(tmp_path / f"rank{number}.pt", weights_only=True)
        assert totals == {"few": 103, "huge": HUGE - 1}
