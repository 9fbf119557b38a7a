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

from pipeline.core.errors import DamagedSample, InputError
from tests.runs import EVALUATED, TORCHVISIONS, numbers, small_run, weights
from tests.shard_sets import damage_images, write_shard_set
from training.config.pretrain import PretrainConfig
from training.config.settings import KnnConfig, OptimConfig
from training.engine.local import launch as launch_local
from training.ray.launch import launch
from training.record.metrics import TIMINGS, WARNING, read_metrics

pytestmark = pytest.mark.usefixtures("ray_session")


def small_ray_run(shards: Path, out: Path, num_workers: int) -> PretrainConfig:
    return small_run(
        shards,
        out,
        epochs=1,
        encoder=TORCHVISIONS,
        precision="fp32",
        num_workers=num_workers,
        log_every_steps=1,
        max_failures=0,
        # Small steps: in a network this young, rounding errors grow fast with large ones.
        optim=OptimConfig(lr=1e-6),
    )


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shard_set(tmp_path / "shards", num_images=42, shard_images=14)
    write_shard_set(tmp_path / "val", num_images=17, first_number=1000)
    return tmp_path / "shards"


def test_two_workers_give_the_numbers_of_one_process(shards: Path, tmp_path: Path) -> None:
    config = small_ray_run(shards, tmp_path / "two", 2)
    two = launch(config)
    assert (two.finished, two.ran) == (True, True)
    assert launch_local(small_ray_run(shards, tmp_path / "one", 1)).finished
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


def test_a_damaged_sample_ends_the_run_with_its_name_and_is_not_tried_again(
    tmp_path: Path,
) -> None:
    """Found by a process of the loader, with failures left."""
    shards = tmp_path / "shards"
    write_shard_set(shards, num_images=16)
    damage_images(shards, 0, 4)
    config = replace(
        small_ray_run(shards, tmp_path / "run", 1),
        knn=KnnConfig(),
        loader_workers=1,
        max_failures=3,
    )
    with pytest.raises(DamagedSample) as caught:
        launch(config)
    assert re.match(r"sample picture-\d+-\w+ in \S+shard-000000.tar is damaged", str(caught.value))
    assert "\n" not in str(caught.value)
    assert len(list((tmp_path / "run" / "ray").glob("start-*"))) == 1
    # The policy may change in mid-run.
    result = launch_local(replace(config, on_damaged="skip", loader_workers=0))
    assert result.finished
    assert result.values["damaged_samples"] == 4


class Other:
    """Somebody else's actor, which holds all cores."""

    def is_there(self) -> bool:
        return True


def test_one_worker_waits_for_a_busy_cluster_and_gives_the_bits_of_one_process(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is no failure. Threads are as many as in one process: sums have the same order."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    holds_all: Any = ray.remote(num_cpus=2)(Other)
    other = holds_all.remote()
    assert ray.get(other.is_there.remote())
    line = "again after a wait: others held what 1 workers need, on 1 workers"
    waited = threading.Event()
    runs = {
        name: replace(small_ray_run(shards, tmp_path / name, 1), optim=OptimConfig(lr=0.01))
        for name in ("ray", "local")
    }

    def leave_when_it_has_waited() -> None:
        progress = tmp_path / "ray" / "progress.log"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not waited.is_set():
            if progress.exists() and line in progress.read_text():
                waited.set()
            time.sleep(0.2)
        ray.kill(other)

    leaves = threading.Thread(target=leave_when_it_has_waited)
    leaves.start()
    assert launch(runs["ray"]).finished
    assert waited.is_set()
    leaves.join()
    assert launch_local(runs["local"]).finished
    assert numbers(tmp_path / "ray") == numbers(tmp_path / "local")
    ours, theirs = weights(tmp_path / "ray"), weights(tmp_path / "local")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
