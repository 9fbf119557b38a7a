"""Two machines that share a bucket alone: the log comes to the driver, a stop goes to rank 0."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.core.progress import Standing, listening
from pipeline.storage.store import LocalStore
from tests.listeners import Kept
from tests.runs import StopsAfter, numbers, run, small_run
from tests.s3_server import Bucket
from tests.shard_sets import write_shard_set
from training.api import Run
from training.config.pretrain import with_place
from training.config.resources import Resources
from training.config.settings import KnnConfig
from training.ray import launch
from training.ray.context import pretrain_on_worker
from training.record import mirror, relay
from training.record.mirror import STOP_FILE, Mirror


def until(fits: Callable[[], bool], then: Callable[[], None]) -> None:
    deadline = time.monotonic() + 60
    while not fits():
        assert time.monotonic() < deadline
        then()
        time.sleep(0.02)


def test_log_and_stop_pass_through_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "TICK_SECONDS", 0.0)
    monkeypatch.setattr(relay, "POLL_SECONDS", 0.02)
    store, kept = LocalStore(tmp_path / "bucket"), Kept()
    driver, worker = (Mirror(store, tmp_path / name, 1) for name in ("driver", "worker"))
    worker.folder.mkdir()
    there = relay.Relay(worker.folder)
    with listening(kept), relay.shown(driver.folder, driver.exchange):
        for count in range(1, 3):
            there.say(f"line {count}")
            there.show(Standing(work="training", done=count, total=9, unit="steps"))
            until(partial(kept.lines.__contains__, f"line {count}"), worker.tick)
        until(lambda: bool(kept.standings), worker.tick)
        assert not (worker.folder / STOP_FILE).exists()
        (driver.folder / STOP_FILE).touch()
        until((worker.folder / STOP_FILE).exists, worker.tick)
        there.say("the end")
        worker.end(is_over=True)
    assert kept.lines == ["line 1", "line 2", "the end"]


def test_a_driver_and_rank_0_share_the_bucket_alone(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both in this process, which stands for Ray."""
    write_shard_set(tmp_path / "shards", num_images=24)
    local = small_run(tmp_path / "shards", tmp_path / "local", knn=KnnConfig(), log_every_steps=1)
    assert run(local).finished
    config = with_place(local, bucket.url("run"))
    assert run(config, StopsAfter(2)).step == 2
    cpu, one = torch.device("cpu"), Resources(num_workers=1, cpus_per_worker=1, use_gpu=False)
    for name, value in (
        ("ray_running", nullcontext),
        ("live_nodes", list),
        ("first_resources", lambda *_: one),
        ("check_nodes", lambda _: None),
        ("_train", lambda config, *_, **__: pretrain_on_worker(config, cpu)),
    ):
        monkeypatch.setattr(launch, name, value)
    heard = Kept()
    with listening(heard):
        result = launch.launch(config)
    assert (result.step, result.finished, result.ran) == (6, True, True)
    assert f"resuming after step 2 of s3://{bucket.name}/run" in heard.lines
    assert heard.standings
    there = Run(bucket.url("run"))
    assert numbers(there.path) == numbers(local.out)
    assert result.values == there.values
    assert launch.launch(config).ran is False
