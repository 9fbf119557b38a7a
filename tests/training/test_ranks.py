"""Whole runs in real gloo processes: the record is that of one process, whoever goes on with it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from pipeline.core.errors import InputError
from tests.ranks import in_ranks
from tests.runs import StopsAfter, numbers, run, small_run
from tests.shard_sets import write_shard_set
from training.config.pretrain import PretrainConfig
from training.config.settings import KnnConfig, OptimConfig
from training.methods.moco.settings import MoCoConfig

STEPS = 10  # two epochs of five


def config_of(folder: Path, out: str, loader_workers: int = 0) -> PretrainConfig:
    return small_run(
        folder / "shards",
        folder / out,
        batch_size=16,
        knn=KnnConfig(),
        precision="fp32",
        log_every_steps=1,
        loader_workers=loader_workers,
        # Groups that no split cuts, and small steps: in a network this young rounding errors double
        # with every large one.
        method=MoCoConfig(queue_size=64, batch_norm_group=4),
        optim=OptimConfig(lr=1e-5),
    )


def _in_rank(rank: int, ranks: int, folder: Path, loader_workers: int, steps: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store-{ranks}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    config = config_of(folder, "in-turns", loader_workers)
    with pytest.raises(InputError, match=f"torchrun started {ranks} processes: leave it out"):
        run(replace(config, num_workers=ranks + 1))
    run(config, StopsAfter(steps))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_ranks_take_turns_in_mid_epoch_and_the_record_is_that_of_one_process(
    tmp_path: Path,
) -> None:
    write_shard_set(tmp_path / "shards", num_images=84, shard_images=28)
    assert run(config_of(tmp_path, "alone")).step == STEPS
    for ranks, loader_workers, steps in ((2, 1, 3), (4, 0, 1)):  # up to steps 3 and 4
        in_ranks(_in_rank, ranks, ranks, tmp_path, loader_workers, steps)
    assert run(config_of(tmp_path, "in-turns", loader_workers=3)).finished
    ours, theirs = (
        [entry for entry in numbers(tmp_path / name) if entry["kind"] == "train"]
        for name in ("in-turns", "alone")
    )
    assert [e["step"] for e in ours] == [e["step"] for e in theirs] == list(range(1, STEPS + 1))
    # The same samples in the same places, from the first step to the last.
    assert [e["samples_seen"] for e in ours] == [e["samples_seen"] for e in theirs]
    assert len({e["samples_seen"] for e in ours}) == STEPS
    # The same masks, draws and batch-norm groups; only the order of sums differs.
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"samples_seen", "kind"}:
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), (name, one["step"])
