"""A run in one process: it learns, resumes to the last bit, and stops when it is asked to."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbone.folder import load_backbone
from pipeline.core.errors import DamagedSample, InputError
from tests.runs import StopsAfter, numbers, run, small_run, weights
from tests.shard_sets import damage_images, write_shard_set
from training.config.pretrain import PretrainConfig
from training.config.settings import CheckpointConfig, KnnConfig, OptimConfig
from training.core.checkpoint import CheckpointStore
from training.data.damage import DAMAGED_FILE
from training.encoders.settings import EncoderConfig
from training.engine.result_lines import result_lines
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
    assert result.finished
    assert result.step == 2 * (42 // 8)
    return out


def test_leaves_everything_a_user_needs(undisturbed: Path) -> None:
    assert (undisturbed / "contact_sheet.png").stat().st_size > 1000
    assert list((undisturbed / "tensorboard").iterdir())
    network, info = load_backbone(undisturbed / "backbone")
    assert info.architecture == "resnet18"
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 512)
    entries = read_metrics(undisturbed)
    evaluations = [e for e in entries if e["kind"] == "eval"]
    assert [e["step"] for e in evaluations] == [0, 5, 10]
    assert all({"knn", "object_sensitivity"} <= e.keys() for e in evaluations)
    assert entries[-1]["kind"] == "learning"
    assert re.match(
        r"(yes|no|unclear).*: instance accuracy \d+ -> \d+ %, spread .*, object sensitivity ",
        str(entries[-1]["message"]),
    )
    train = [e for e in entries if e["kind"] == "train"]
    assert [e["step"] for e in train] == [2, 4, 5, 6, 8, 10]
    assert {"loss", "lr", "rho", "images_per_second", "data_wait_share"} <= train[-1].keys()
    assert train[0]["rho"] == pytest.approx(2.0 * 1 / 5)
    assert train[-1]["rho"] == 2.0
    assert 0 <= float(train[-1]["data_wait_share"]) <= 1


@pytest.mark.parametrize("steps", [3, 5, 7])
def test_a_resumed_run_equals_an_undisturbed_one_to_the_last_bit(
    shards: Path, undisturbed: Path, tmp_path: Path, steps: int
) -> None:
    out = tmp_path / "resumed"
    stopped = run(small_run(shards, out), StopsAfter(steps))
    assert (stopped.step, stopped.finished) == (steps, False)
    assert run(small_run(shards, out)).finished
    assert numbers(out) == numbers(undisturbed)
    ours, theirs = weights(out), weights(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_steps_after_the_last_checkpoint_are_repeated_once(
    shards: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """As after a crash: the record is ahead of the newest checkpoint."""
    out = tmp_path / "crashed"
    config = small_run(shards, out, checkpoint=CheckpointConfig(every_steps=4, keep=8))
    run(config, StopsAfter(7))
    store = CheckpointStore(out / "checkpoints", keep=8)
    assert store.steps() == [4, 5, 7]
    for step in (5, 7):
        (out / "checkpoints" / f"step-{step:08d}").rename(tmp_path / f"gone-{step}")
    assert run(config).finished
    assert numbers(out) == numbers(undisturbed)


def test_checks_leave_the_training_as_it_is(
    shards: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, running statistics and queue to the last bit, calibration at step 0 included."""
    monkeypatch.setattr("training.engine.loop.run_checks", lambda *_, **__: {})
    run(small_run(shards, tmp_path / "run"))
    unchecked = weights(tmp_path / "run")
    assert all(torch.equal(value, unchecked[name]) for name, value in weights(undisturbed).items())


def test_what_needs_no_labels_is_measured_without_validation_shards(
    shards: Path, tmp_path: Path
) -> None:
    config = small_run(shards, tmp_path / "run", epochs=1, knn=KnnConfig())
    result = run(config)
    evaluations = [e for e in read_metrics(config.out) if e["kind"] == "eval"]
    assert [e["step"] for e in evaluations] == [0, 5]
    assert all("object_sensitivity" in e and "knn" not in e for e in evaluations)
    (line,) = (line for line in result_lines(result, config) if line.startswith("learning   "))
    start, end = (e["object_sensitivity"] for e in evaluations)
    assert line.endswith(f"object sensitivity {start:.3f} -> {end:.3f}")


def test_a_finished_run_says_so_and_changes_nothing(shards: Path, undisturbed: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file()}
    result = run(small_run(shards, undisturbed))
    assert result.finished
    assert not result.ran
    trained = [entry for entry in numbers(undisturbed) if entry["kind"] == "train"]
    assert result.values["loss"] == trained[-1]["loss"]
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file()} == before


def test_other_settings_are_refused_by_name(shards: Path, undisturbed: Path) -> None:
    config = small_run(shards, undisturbed, optim=OptimConfig(lr=0.02), fill="blur")
    with pytest.raises(InputError, match=r"fill: mean -> blur; optim\.lr: 0\.01 -> 0\.02"):
        run(config)


def test_only_the_newest_checkpoints_are_kept(shards: Path, tmp_path: Path) -> None:
    config = small_run(
        shards,
        tmp_path / "run",
        checkpoint=CheckpointConfig(every_steps=2, keep=2),
        knn=KnnConfig(),
    )
    run(config)
    assert CheckpointStore(tmp_path / "run" / "checkpoints", keep=2).steps() == [8, 10]


@pytest.mark.parametrize(
    "method", [MoCoConfig(queue_size=64, batch_norm_group=4), SimCLRConfig(batch_norm_group=4)]
)
def test_damaged_samples_are_skipped_counted_and_named(
    tmp_path: Path, method: MethodConfig
) -> None:
    shards = tmp_path / "shards"
    write_shard_set(shards, num_images=42, shard_images=14)
    write_shard_set(tmp_path / "val", num_images=18, first_number=1000)
    damage_images(shards, 1, 4)

    def skipping(out: str) -> PretrainConfig:
        return small_run(
            shards,
            tmp_path / out,
            method=method,
            on_damaged="skip",
        )

    result = run(skipping("whole"))
    assert result.finished
    named = (tmp_path / "whole" / DAMAGED_FILE).read_text().splitlines()
    assert 3 <= len(named) <= 4  # an epoch leaves 2 of the 42 images out
    assert all("in shard-000001 is damaged" in line for line in named)
    counts = [float(e["damaged_samples"]) for e in read_metrics(tmp_path / "whole") if "loss" in e]
    assert counts == sorted(counts)
    assert 4 <= result.values["damaged_samples"] == counts[-1] <= 8
    # Its numbers go on through a restart.
    run(skipping("halved"), StopsAfter(7))
    assert run(skipping("halved")).finished
    assert numbers(tmp_path / "halved") == numbers(tmp_path / "whole")


def test_a_damaged_sample_is_an_error_unless_it_is_to_be_skipped(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    write_shard_set(shards, num_images=16)
    damage_images(shards, 0, 4)
    config = small_run(shards, tmp_path / "run", knn=KnnConfig())
    with pytest.raises(DamagedSample, match=r"sample picture-\d+-\w+ in shard-000000 is damaged"):
        run(config)
    assert run(replace(config, on_damaged="skip")).finished  # the same run goes on


@pytest.mark.parametrize("fill", ["mean", "blur", "high_pass"])
@pytest.mark.parametrize("strategy", ["none", "random", "shuffled"])
def test_every_fill_and_strategy_trains(
    shards: Path, tmp_path: Path, fill: str, strategy: str
) -> None:
    config = small_run(
        shards,
        tmp_path / "run",
        epochs=1,
        fill=fill,
        masks=MaskConfig(strategy=strategy),
        knn=KnnConfig(),
    )
    result = run(config)
    assert np.isfinite(result.values["loss"])
    masked = result.values["query_masked_foreground"]
    assert (masked == 0) == (strategy == "none")
    exported = json.loads((tmp_path / "run" / "backbone" / "backbone.json").read_text())
    assert (exported["preprocessing"]["high_pass"] is not None) == (fill == "high_pass")


def test_a_partial_stem_sees_the_masks(shards: Path, tmp_path: Path) -> None:
    stems = ("small", "small_partial")
    losses = [
        run(
            small_run(
                shards,
                tmp_path / stem,
                epochs=1,
                encoder=EncoderConfig(architecture="resnet18", stem=stem),  # type: ignore[arg-type]
                knn=KnnConfig(),
            )
        ).values["loss"]
        for stem in stems
    ]
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]  # the same weights and views: only the masks' edges differ


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 64}, "42 images, fewer than one global batch of 64"),
        ({"method": MoCoConfig(queue_size=60)}, "queue_size 60 is not a multiple"),
        (
            {"method": MoCoConfig(queue_size=64, batch_norm_group=None)},
            "batch_norm_group None leaves one group for the whole batch of 8",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    shards: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    if "batch_size" in changes:
        changes["method"] = MoCoConfig(queue_size=64, batch_norm_group=4)
    with pytest.raises(InputError, match=message):
        run(small_run(shards, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_knn_without_labels_is_refused(shards: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    write_shard_set(bare, num_images=16, labels=False)
    with pytest.raises(InputError, match=r"labels asked for where there are none: .*bare"):
        run(small_run(shards, tmp_path / "run", knn=KnnConfig(val_shards=bare)))


def test_a_folder_that_is_no_run_is_left_alone(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is no run of this job"):
        run(small_run(shards, tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
