"""How long a training waits for shards of a bucket that is far away, beside the same local ones.

Every request takes 200 ms more, and 1 % of them fail. The cache is empty at the start of each run.
"""

import sys
from pathlib import Path
from statistics import median

import pytest

from tests.benchmarks.test_loader_speed import photographs
from tests.benchmarks.timing import machine
from tests.pretrain_jobs import run_job
from tests.s3_server import Bucket, FarWire
from tests.shard_sets import write_images
from training.record.metrics import read_metrics

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

DELAY, FAILS = 0.2, 0.01
BATCH, SHARD, WINDOW, WINDOWS = 64, 128, 16, 3
WINDOW_STEPS = WINDOW * SHARD // BATCH
ROUNDS, LOG_EVERY = 3, 4
MOST = 0.05
"""Share of the time after the first window that may be spent waiting, over the local run's."""


def waited(run: Path) -> tuple[float, float]:
    """Seconds until the end of the first window, and the share of waiting after it."""
    first = later = waits = 0.0
    for line in read_metrics(run):
        if line["kind"] == "train":
            seconds = LOG_EVERY * BATCH / float(line["images_per_second"])
            if int(line["step"]) <= WINDOW_STEPS:
                first += seconds
            else:
                later += seconds
                waits += seconds * float(line["data_wait_share"])
    return first, waits / later


@pytest.fixture(scope="module")
def shards(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of 160 px, a few of them again and again."""
    number, root = WINDOWS * WINDOW * SHARD, tmp_path_factory.mktemp("made")
    some = photographs(shared_data / "imagenette160/train", 512, (160, 160))
    images = [some[i % len(some)] for i in range(number)]
    write_images(root, images, [0] * number, shard_images=SHARD, ext="jpg")
    return root


@pytest.mark.parametrize("loaders", [0, 2])
def test_waiting_for_a_far_bucket(shards: Path, s3_port: int, tmp_path: Path, loaders: int) -> None:
    wire = FarWire(s3_port, delay=DELAY, fails=FAILS)
    bucket = Bucket(s3_port, wire)
    bucket.upload(shards, "set")
    places = {"local": str(shards), "bucket": bucket.url("set")}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in places}
    for turn in range(ROUNDS):
        for name, place in places.items():
            out = tmp_path / f"{name}-{turn}"
            flags = ["--local", "--recipe", "demo", "--epochs", "1"]
            flags += ["--loader-workers", str(loaders), "--log-every-steps", str(LOG_EVERY)]
            flags += ["--cache.folder", str(tmp_path / f"cache-{turn}")]
            command = [sys.executable, "jobs/pretrain.py", place, str(out), *flags]
            run_job(command, tmp_path / "said.txt")
            found[name].append(waited(out))
    wire.cut()
    megabytes = sum(tar.stat().st_size for tar in shards.rglob("*.tar")) / 1e6
    print(
        f"\n{WINDOWS} windows of {WINDOW} shards, {megabytes:.0f} MB, {loaders} loader processes, "
        f"{1e3 * DELAY:.0f} ms a request, {wire.num_failed} of {wire.num_requests} requests failed "
        f"({machine('torch', 'obstore')})"
    )
    for name, runs in found.items():
        firsts, shares = zip(*runs, strict=True)
        print(f"  {name:<8} first window, s      {', '.join(f'{one:.1f}' for one in firsts)}")
        print(f"  {name:<8} waiting after it     {', '.join(f'{one:.1%}' for one in shares)}")
    local, far = (median(share for _, share in found[name]) for name in places)
    assert far - local <= MOST
