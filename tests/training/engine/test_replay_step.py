"""A step that is run again is the step that it was, and leaves the run alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import Diverged, InputError
from tests.runs import run, small_run
from tests.shard_sets import write_shard_set
from training.config.settings import CheckpointConfig, KnnConfig, OptimConfig
from training.engine.replay_step import replay_lines, replay_step
from training.engine.result import FAILED_FILE
from training.record.metrics import read_metrics
from training.views.settings import MaskConfig


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root / "train", num_images=42, shard_images=14)
    return root / "train"


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("strategy", ["balanced", "learned"])
def test_a_step_is_the_one_that_it_was(shards: Path, tmp_path: Path, strategy: str) -> None:
    config = small_run(
        shards,
        tmp_path / "run",
        knn=KnnConfig(),
        masks=MaskConfig(strategy=strategy),
        checkpoint=CheckpointConfig(every_epochs=0, every_steps=4, keep=8),
        log_every_steps=1,
    )
    run(config)
    losses = {e["step"]: e["loss"] for e in read_metrics(config.out) if e["kind"] == "train"}
    before = files(config.out)
    for step, start in ((2, 0), (7, 4), (10, 8)):
        found = replay_step(config, step)
        assert (found.start, found.first_not_finite, found.fault) == (start, None, None)
        assert found.loss == pytest.approx(losses[step], rel=1e-6)
        assert len(set(found.images)) == config.batch_size
    assert files(config.out) == before
    assert replay_step(config, 2).images != found.images
    for step in (0, 11):
        with pytest.raises(InputError, match=f"--replay-step {step} must be from 1 to 10"):
            replay_step(config, step)
    with pytest.raises(InputError, match="other settings"):
        replay_step(replace(config, seed=7), 2)


def test_what_made_a_run_diverge_is_found(shards: Path, tmp_path: Path) -> None:
    config = small_run(shards, tmp_path / "run", optim=OptimConfig(lr=1e30), knn=KnnConfig())
    with pytest.raises(Diverged) as diverged:
        run(config)
    failed = json.loads((config.out / FAILED_FILE).read_text())
    assert (failed["seed"], failed["reason"]) == (config.seed, str(diverged.value))
    found = replay_step(config, failed["step"])
    assert found.images == failed["images"]
    assert len(found.images) == config.batch_size
    first = found.first_not_finite
    assert first is not None
    assert first <= failed["step"]
    at_fault = replay_step(config, first)
    assert at_fault.first_not_finite == first
    assert at_fault.fault is not None
    assert "returned nan values" in at_fault.fault
    words = "\n".join(replay_lines(at_fault))
    assert at_fault.fault in words
    assert at_fault.images[0] in words
