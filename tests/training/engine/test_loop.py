"""A run in one process: it learns, resumes to the last bit, and stops when it is asked to."""

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbone.folder import load_backbone
from pipeline.core.errors import DamagedSample, Diverged, InputError
from tests.runs import NETWORK, NUM_FEATURES, StopsAfter, numbers, run, small_run, weights
from tests.shard_sets import PNGS, damage_images, write_shard_set
from training.config.settings import CheckpointConfig, KnnConfig, OptimConfig
from training.core.checkpoint import CheckpointStore
from training.data.damage import DAMAGED_FILE
from training.encoders.settings import EncoderConfig
from training.engine.result import result_lines
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import MethodConfig
from training.methods.simclr.settings import SimCLRConfig
from training.record.metrics import read_metrics
from training.views.settings import MaskConfig


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root / "train", num_images=42, shard_images=14)
    write_shard_set(root / "val", num_images=18, first_number=1000)
    return root / "train"


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    result = run(small_run(shards, out))
    assert (result.finished, result.step) == (True, 2 * (42 // 8))
    return out


def assert_equal_runs(ours: Path, theirs: Path) -> None:
    """Record and weights to the last bit."""
    assert numbers(ours) == numbers(theirs)
    expected = weights(theirs)
    assert all(torch.equal(value, expected[name]) for name, value in weights(ours).items())


def test_leaves_everything_a_user_needs(undisturbed: Path) -> None:
    assert (undisturbed / "contact_sheet.png").stat().st_size > 1000
    assert list((undisturbed / "tensorboard").iterdir())
    network, info = load_backbone(undisturbed / "backbone")
    assert info.architecture == NETWORK
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, NUM_FEATURES)
    entries = read_metrics(undisturbed)
    evaluations = [e for e in entries if e["kind"] == "eval"]
    assert [e["step"] for e in evaluations] == [0, 5, 10]
    assert all({"knn", "object_sensitivity"} <= e.keys() for e in evaluations)
    assert entries[-1]["kind"] == "learning"
    verdict = r"(yes|no|unclear).*: instance accuracy \d+ -> \d+ %, spread .*, object sensitivity "
    assert re.match(verdict, str(entries[-1]["message"]))
    train = [e for e in entries if e["kind"] == "train"]
    assert [e["step"] for e in train] == [2, 4, 5, 6, 8, 10]
    assert {"loss", "lr", "rho", "images_per_second", "data_wait_share"} <= train[-1].keys()
    assert train[0]["rho"] == pytest.approx(2.0 * 1 / 5)
    assert train[-1]["rho"] == 2.0
    assert 0 <= float(train[-1]["data_wait_share"]) <= 1


def test_a_resumed_run_equals_an_undisturbed_one_to_the_last_bit(
    shards: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Stopped in mid-epoch; of an epoch's end, and after a crash: the next test."""
    out = tmp_path / "resumed"
    stopped = run(small_run(shards, out), StopsAfter(3))
    assert (stopped.step, stopped.finished) == (3, False)
    (line,) = result_lines(stopped, small_run(shards, out))
    assert line == "stopped at step 3 of 10; the same command goes on from there"
    assert run(small_run(shards, out)).finished
    assert_equal_runs(out, undisturbed)


def test_a_crash_repeats_the_steps_after_the_newest_of_the_checkpoints_that_are_kept(
    shards: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "crashed"
    config = small_run(shards, out, checkpoint=CheckpointConfig(every_steps=4, keep=3))
    run(config, StopsAfter(8))
    store = CheckpointStore(out / "checkpoints")
    assert store.steps() == [4, 5, 8]
    # The record is ahead of the checkpoint that is left, at an epoch's end.
    (out / "checkpoints" / "step-00000008").rename(tmp_path / "gone")
    assert run(config).finished
    assert store.steps() == [5, 8, 10]
    assert_equal_runs(out, undisturbed)


def test_checks_leave_the_training_as_it_is(
    shards: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, running statistics and queue to the last bit, calibration at step 0 included."""
    monkeypatch.setattr("training.engine.loop.run_checks", lambda *_, **__: {})
    run(small_run(shards, tmp_path / "run"))
    unchecked = weights(tmp_path / "run")
    assert all(torch.equal(value, unchecked[name]) for name, value in weights(undisturbed).items())


def test_a_finished_run_says_so_and_changes_nothing(shards: Path, undisturbed: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file()}
    config = small_run(shards, undisturbed)
    result = run(config)
    assert (result.finished, result.ran) == (True, False)
    assert result.values["loss"] == [e["loss"] for e in numbers(undisturbed) if "loss" in e][-1]
    assert result_lines(result, config)[0].startswith("nothing to do: this run of 10 steps is")
    other = small_run(shards, undisturbed, optim=OptimConfig(lr=0.02), fill="blur")
    with pytest.raises(InputError, match=r"fill: mean -> blur; optim\.lr: 0\.01 -> 0\.02"):
        run(other)
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "method", [MoCoConfig(queue_size=64, batch_norm_group=4), SimCLRConfig(batch_norm_group=4)]
)
def test_damaged_samples_are_an_error_or_skipped_counted_and_named(
    tmp_path: Path, method: MethodConfig
) -> None:
    shards = tmp_path / "shards"
    write_shard_set(shards, num_images=24, shard_images=12)
    damage_images(shards, 1, 3)
    damage_images(shards, 1, 4, PNGS)  # the maps of these, and of one more
    made = {"method": method, "knn": KnnConfig(), "log_every_steps": 1}
    config = small_run(shards, tmp_path / "whole", **made)
    with pytest.raises(DamagedSample, match=r"sample \S+ in \S+shard-000001.tar is damaged"):
        run(config)
    config = replace(config, on_damaged="skip")  # the same run goes on
    result = run(config)
    named = (config.out / DAMAGED_FILE).read_text().splitlines()
    assert len(named) == 4
    assert all("shard-000001.tar is damaged" in line for line in named)
    counts = [float(e["damaged_samples"]) for e in read_metrics(config.out) if "loss" in e]
    assert counts == sorted(counts)
    assert result.values["damaged_samples"] == counts[-1] == 2 * 4
    line = f"damaged    8 samples were skipped: {config.out / DAMAGED_FILE}"
    assert line in result_lines(result, config)
    # The count goes on through a restart.
    halved = replace(config, out=tmp_path / "halved")
    run(halved, StopsAfter(4))
    assert run(halved).finished
    assert_equal_runs(halved.out, config.out)


@pytest.mark.parametrize(
    ("fill", "strategy"), [("mean", "none"), ("blur", "random"), ("high_pass", "shuffled")]
)
def test_every_fill_trains_and_what_needs_no_labels_is_measured_without_any(
    shards: Path, tmp_path: Path, fill: str, strategy: str
) -> None:
    made = {"fill": fill, "masks": MaskConfig(strategy=strategy), "knn": KnnConfig()}
    config = small_run(shards, tmp_path / "run", epochs=1, **made)
    result = run(config)
    assert np.isfinite(result.values["loss"])
    masked = result.values["query_masked_foreground"]
    assert (masked == 0) == (strategy == "none")
    exported = json.loads((tmp_path / "run" / "backbone" / "backbone.json").read_text())
    assert (exported["preprocessing"]["high_pass"] is not None) == (fill == "high_pass")
    evaluations = [e for e in read_metrics(config.out) if e["kind"] == "eval"]
    assert [e["step"] for e in evaluations] == [0, 5]
    assert all("object_sensitivity" in e and "knn" not in e for e in evaluations)
    (line,) = (line for line in result_lines(result, config) if line.startswith("learning   "))
    start, end = (e["object_sensitivity"] for e in evaluations)
    assert line.endswith(f"object sensitivity {start:.3f} -> {end:.3f}")


def test_a_partial_stem_sees_the_masks(shards: Path, tmp_path: Path) -> None:
    losses = []
    for stem in ("small", "small_partial"):
        encoder = EncoderConfig(architecture="resnet18", stem=stem)
        config = small_run(shards, tmp_path / stem, epochs=1, encoder=encoder, knn=KnnConfig())
        losses.append(run(config, StopsAfter(2)).values["loss"])
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]  # the same weights and views: only the masks' edges differ


def test_a_loss_that_is_not_finite_ends_the_run(shards: Path, tmp_path: Path) -> None:
    config = small_run(shards, tmp_path / "run", optim=OptimConfig(lr=1e30), knn=KnnConfig())
    before = set(threading.enumerate())
    with pytest.raises(Diverged, match=r"finite at step \d+ \(loss nan\): lower --optim\.lr"):
        run(config)
    assert set(threading.enumerate()) <= before  # TensorBoard's writer has one
