"""A sweep on a real Ray: trials end as they should, and leave nothing that holds its cores."""

import json
import time
from pathlib import Path

import psutil
import pytest

from pipeline.progress import listening
from tests.listeners import Kept
from tests.pretrain_jobs import is_worker
from tests.shard_sets import write_shard_set
from tests.training.sweep.small_sweeps import small_sweep
from training.cluster.resources import Resources
from training.record.metrics import read_metrics
from training.sweep import tune
from training.sweep.description import describe
from training.sweep.fits import Share
from training.sweep.space import parse_space


def held() -> list[str]:
    """Placement groups that are not gone, and processes that train."""
    import ray

    groups = ray.util.placement_group_table().values()
    workers = [p for p in psutil.Process().children(recursive=True) if is_worker(p)]
    return [g["placement_group_id"] for g in groups if g["state"] != "REMOVED"] + [
        str(worker.pid) for worker in workers
    ]


@pytest.mark.timeout(600)
def test_trials_finish_and_stop_and_hold_nothing_afterwards(
    ray_session: None, tmp_path: Path
) -> None:
    write_shard_set(tmp_path / "train", num_images=48)
    write_shard_set(tmp_path / "val", num_images=12, first_number=1000)
    places = {"shards": str(tmp_path / "train"), "knn.val_shards": str(tmp_path / "val")}
    space = parse_space(grid=["seed=0,1,2", "epochs=2,8"])
    sweep = small_sweep(tmp_path / "sweep", space, changes=places)
    sweep.folder.mkdir()
    kept = Kept()
    start = time.time()
    with listening(kept):
        tune.run_trials(sweep, Share(2, Resources(1, 1, use_gpu=False)), describe(sweep, "d"))
    print(time.time() - start)
    print("\n".join(kept.lines))
    for t in tune.read_trials(sweep): print(t)
    deadline = time.monotonic() + 20
    while held() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert held() == []
    print(kept.standings[-1])
    assert 0
