"""Shards made without Ray: the same bytes, in several processes; who makes them by default."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from jobs import precompute
from pipeline.core.errors import InputError
from pipeline.precompute import local_job
from pipeline.precompute.build import BuiltShard, ShardJob
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.local_job import build_locally, builder
from pipeline.precompute.run import run_precompute
from tests.deadly import DeadlySaliency
from tests.deadly import write_pictures as write_deadly_pictures
from tests.job_here import Done, job_here
from tests.picture_folders import contents, write_pictures


def config_of(tmp_path: Path, out: str) -> PrecomputeConfig:
    return PrecomputeConfig(data=tmp_path / "data", out=tmp_path / out, shard_images=4)


def test_the_bytes_are_those_of_one_process(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 10)
    (tmp_path / "data" / "class_0" / "bad.jpg").write_bytes(b"no picture")
    here = config_of(tmp_path, "here")
    with pytest.raises(InputError, match=r"1 of 11 images cannot be used"):
        run_precompute(here)
    with pytest.raises(InputError, match=r"1 of 11 images cannot be used"):
        run_precompute(config_of(tmp_path, "local"), build_locally)
    (tmp_path / "data" / "class_0" / "bad.jpg").unlink()
    first = run_precompute(here)
    assert run_precompute(config_of(tmp_path, "local"), build_locally) == first
    assert contents(tmp_path / "local") == contents(tmp_path / "here")


def test_an_error_of_one_shard_ends_the_work(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 10)
    config = config_of(tmp_path, "out")

    def lose(jobs: Sequence[ShardJob]) -> list[BuiltShard]:
        next((tmp_path / "data" / "class_1").iterdir()).unlink()
        return list(build_locally(jobs, 2))

    with pytest.raises(InputError, match="has vanished"):
        run_precompute(config, lose)
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("options", "address", "expected"),
    [
        ("", "", "local"),
        ("", "127.0.0.1:1", "ray"),
        ("--ray", "", "ray"),
        ("--local", "127.0.0.1:1", "local"),
    ],
)
def test_who_makes_the_shards(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    address: str,
    expected: str,
) -> None:
    write_pictures(tmp_path / "data", 2)
    asked: list[str] = []

    def noted(name: str) -> Callable[[Sequence[ShardJob]], list[BuiltShard]]:
        def build(jobs: Sequence[ShardJob]) -> list[BuiltShard]:
            asked.append(name)
            return list(build_locally(jobs, 1))

        return build

    monkeypatch.setattr(local_job, "build_locally", noted("local"))
    monkeypatch.setattr(local_job, "build_on_ray", noted("ray"))
    monkeypatch.setenv("RAY_ADDRESS", address)
    job = job_here(precompute.run, monkeypatch, capsys)
    places = "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")
    done: Done = job(*places, *options.split())
    assert (done.code, asked) == (0, [expected])
    assert "2 images in 1 shard: " in done.out


def test_many_images_are_for_ray_and_whole_shards_are_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_job, "MOST_LOCAL_IMAGES", 5)
    asked: list[int] = []

    def on_ray(jobs: Sequence[ShardJob]) -> list[BuiltShard]:
        asked.append(len(jobs))
        return list(build_locally(jobs, 1))

    monkeypatch.setattr(local_job, "build_on_ray", on_ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_pictures(tmp_path / "data", 10)
    config, make = config_of(tmp_path, "out"), builder(local=False, on_ray=False)
    info = run_precompute(config, make)
    assert asked == [3]
    next((tmp_path / "out" / "shards").iterdir()).unlink()
    assert run_precompute(config, make) == info
    assert run_precompute(config, make) == info
    assert asked == [3]
    assert run_precompute(config, builder(local=False, on_ray=True)) == info  # nothing to do
    assert asked == [3]
    next((tmp_path / "out" / "shards").iterdir()).unlink()
    assert run_precompute(config, builder(local=False, on_ray=True)) == info
    assert asked == [3, 3]
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert run_precompute(config, builder(local=False, on_ray=False)) == info
    assert asked == [3, 3]
    next((tmp_path / "out" / "shards").iterdir()).unlink()
    assert run_precompute(config, builder(local=False, on_ray=False)) == info
    assert asked == [3, 3, 3]
    monkeypatch.setattr(local_job, "MOST_LOCAL_IMAGES", 2)
    assert run_precompute(config, builder(local=False, on_ray=False)) == info
    assert asked == [3, 3, 3, 3]


def test_an_interrupt_ends_the_processes_at_once(tmp_path: Path) -> None:
    """No shard is waited for, and no image is suspected and tried again."""
    write_deadly_pictures(tmp_path / "data", 8, dict.fromkeys(range(8), "sleep"))
    before = set(psutil.Process().children(recursive=True))

    def interrupted(jobs: Sequence[ShardJob]) -> list[BuiltShard]:
        asleep = [replace(job, saliency=DeadlySaliency()) for job in jobs]
        threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        return list(build_locally(asleep, 2))

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # some shells ignore it
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_precompute(config_of(tmp_path, "out"), interrupted)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - started < 60  # they would sleep for minutes
    assert not set(psutil.Process().children(recursive=True)) - before
    assert not (tmp_path / "out" / "rejected").exists()
