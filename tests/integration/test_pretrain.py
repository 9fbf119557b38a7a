"""Pretraining on a real Ray with two workers: the same numbers as one process, and clear ends."""

import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from jobs.stream import here, on_ray
from pipeline.core.errors import DamagedSample, InputError
from tests.runs import EVALUATED, TORCHVISIONS, StopsAfter, numbers, run, small_run, weights
from tests.shard_sets import damage_images, write_shard_set
from training.config.pretrain import PretrainConfig
from training.config.settings import CheckpointConfig, KnnConfig, OptimConfig
from training.config.stages import AnchorConfig
from training.engine.local import launch as launch_local
from training.ray.launch import launch
from training.record.metrics import TIMINGS, WARNING, read_metrics
from training.stream.config import Stream
from training.stream.run import run_stream

pytestmark = pytest.mark.usefixtures("ray_session")


def small_ray_run(shards: Path, out: Path, num_workers: int) -> PretrainConfig:
    return small_run(
        shards,
        out,
        encoder=TORCHVISIONS,
        precision="fp32",
        num_workers=num_workers,
        log_every_steps=1,
        max_failures=0,
    )


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shard_set(tmp_path / "shards", num_images=42, shard_images=14)
    write_shard_set(tmp_path / "val", num_images=17, first_number=1000)
    return tmp_path / "shards"


class Other:
    """Somebody else's actor, which holds all cores."""

    def is_there(self) -> bool:
        return True


def test_two_workers_wait_for_a_busy_cluster_and_give_the_numbers_of_one_process(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is no failure."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    holds_all: Any = ray.remote(num_cpus=2)(Other)
    other = holds_all.remote()
    assert ray.get(other.is_there.remote())
    line = "again after a wait: others held what 2 workers need, on 2 workers"
    waited = threading.Event()

    def leave_when_it_has_waited() -> None:
        progress = tmp_path / "two" / "progress.log"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not waited.is_set():
            if progress.exists() and line in progress.read_text():
                waited.set()
            time.sleep(0.2)
        ray.kill(other)

    leaves = threading.Thread(target=leave_when_it_has_waited)
    leaves.start()
    # Small steps: in a network this young, rounding errors grow fast with large ones.
    optim, config = OptimConfig(lr=1e-6), small_ray_run(shards, tmp_path / "two", 2)
    config = replace(config, epochs=1, optim=optim)
    two = launch(config)
    assert waited.is_set()
    leaves.join()
    assert (two.finished, two.ran) == (True, True)
    assert launch_local(replace(config, out=tmp_path / "one", num_workers=1)).finished
    ours, theirs = (
        # A warning is about the network in evaluation mode.
        [entry for entry in read_metrics(tmp_path / name) if entry["kind"] != WARNING]
        for name in ("two", "one")
    )
    assert [(e["step"], e["kind"]) for e in ours] == [(e["step"], e["kind"]) for e in theirs]
    for one, other in zip(ours, theirs, strict=True):
        names = one.keys() - set(TIMINGS) - {"step", "kind", *EVALUATED}
        assert names == other.keys() - set(TIMINGS) - {"step", "kind", *EVALUATED}
        # The same samples, masks and batch-norm groups; only the order of sums differs.
        assert one.get("samples_seen") == other.get("samples_seen")
        for name in names - {"samples_seen"}:
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), (name, one["step"])

    again = launch(config)
    assert (again.finished, again.ran) == (True, False)
    assert again.values["knn"] == two.values["knn"]
    # A run that was finished by two workers is refused with other data.
    write_shard_set(tmp_path / "other", num_images=24)
    with pytest.raises(InputError, match="data_digest: "):
        launch(replace(config, shards=tmp_path / "other"))


def test_one_worker_gives_the_bits_of_one_process_up_to_a_damaged_sample_and_does_not_try_it_again(
    shards: Path, tmp_path: Path
) -> None:
    """Of a run that began elsewhere. A process of the loader finds it, with failures left.

    Threads are as many as in one process: sums have the same order.
    """
    write_shard_set(tmp_path / "sound", num_images=42, shard_images=14)
    knn = KnnConfig(
        val_shards=tmp_path / "val", train_shards=tmp_path / "sound", every_epochs=1, k=5
    )
    runs = {
        name: replace(
            small_ray_run(shards, tmp_path / name, 1),
            knn=knn,
            checkpoint=CheckpointConfig(every_steps=1, keep=1),
            loader_workers=1,
            max_failures=3,
        )
        for name in ("ray", "local")
    }
    for config in runs.values():
        assert run(config, StopsAfter(3)).step == 3
    damage_images(shards, 0, 1)  # a sample of steps 2 and 7
    with pytest.raises(DamagedSample) as here:
        launch_local(runs["local"])
    with pytest.raises(DamagedSample) as caught:
        launch(runs["ray"])
    assert re.match(r"sample picture-\d+-\w+ in \S+shard-000000.tar is damaged", str(caught.value))
    assert str(caught.value) == str(here.value)
    assert "\n" not in str(caught.value)
    assert len(list((tmp_path / "ray" / "ray").glob("start-*"))) == 1
    record = numbers(tmp_path / "ray")
    assert {entry["step"] for entry in record if "knn" in entry} == {0, 5}
    assert record[-1]["step"] == 6
    assert record == numbers(tmp_path / "local")
    ours, theirs = weights(tmp_path / "ray"), weights(tmp_path / "local")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # The policy may change in mid-run.
    result = launch_local(replace(runs["ray"], on_damaged="skip", loader_workers=0))
    assert result.finished
    assert result.values["damaged_samples"] == 1


@pytest.mark.timeout(900)
def test_a_stream_has_the_table_and_the_weights_of_one_without_ray(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        write_shard_set(tmp_path / name, num_images=18, first_number=1000 * number)
    stages, tables = (tmp_path / "a", tmp_path / "b"), []
    for name, runners in (("here", here), ("ray", on_ray)):
        base = small_ray_run(stages[0], tmp_path / name, 1)
        base = replace(base, epochs=1, knn=KnnConfig(k=3), anchor=AnchorConfig(kind="l2"))
        with runners() as (start, measure):
            tables.append(run_stream(Stream(stages=stages, base=base), start, measure))
    assert tables[0] is not None
    assert tables[1] is not None
    assert tables[0].lines() == tables[1].lines()
    ours, theirs = (weights(tmp_path / name / "stage-01") for name in ("here", "ray"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
