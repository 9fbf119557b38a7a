"""What a trial of a sweep costs over the same run by jobs/pretrain.py, after start-up."""

import sys
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from tests.pretrain_jobs import run_job
from tests.shard_sets import write_shard_set

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

REPEATS, EPOCHS, STEPS_PER_EPOCH, BATCH = 3, 4, 20, 32
MOST = 1.1


def run_of(job: str, root: Path, out: Path, *options: str) -> None:
    settings = {
        "shards": root / "train",
        "knn.val-shards": root / "val",
        "knn.every-epochs": 1,
        "out": out,
        "epochs": EPOCHS,
        "batch-size": BATCH,
        "method.batch-norm-group": 16,
        "num-workers": 1,
        "checkpoint.keep": EPOCHS,
    }
    flags = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    run_job([sys.executable, f"jobs/{job}.py", *flags, *options], root / "said.txt")


def seconds_of(run: Path) -> float:
    """From the first checkpoint to the last one: all that comes after start-up."""
    states = sorted((run / "checkpoints").glob("step-*/state.pt"))
    assert len(states) == EPOCHS
    times = [state.stat().st_mtime for state in states]
    assert all(a < b for a, b in pairwise(times))
    return times[-1] - times[0]


def test_a_trial_costs_little_more_than_its_run(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "train", num_images=STEPS_PER_EPOCH * BATCH, shard_images=64)
    write_shard_set(tmp_path / "val", num_images=96, first_number=100_000)
    alone, swept = [], []
    for repeat in range(REPEATS):
        run, sweep = tmp_path / f"run-{repeat}", tmp_path / f"sweep-{repeat}"
        run_of("pretrain", tmp_path, run)
        alone.append(seconds_of(run))
        run_of("sweep", tmp_path, sweep, "--grid", "seed=0", "--concurrent", "1")
        swept.append(seconds_of(sweep / "trials" / "0000"))
    ratio = median(swept) / median(alone)
    print(
        f"{EPOCHS - 1} epochs after start-up: alone {sorted(alone)} s, in a sweep {sorted(swept)} "
        f"s; medians {median(alone):.1f} and {median(swept):.1f}: {ratio:.3f}"
    )
    assert ratio <= MOST
