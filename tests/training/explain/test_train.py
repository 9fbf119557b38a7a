"""Planted objects are found; a training that was stopped ends as one that was not."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.saliency.explain import Explain
from pipeline.saliency.explain_network import INFO_FILE, WEIGHTS_FILE, resized
from tests.runs import StopsAfter
from tests.training.evaluate.cases import Colours
from tests.training.explain.planted import (
    VIEW,
    Hues,
    iou,
    plant,
    planted,
    small_config,
    write_planted,
)
from training.explain.check import features_under
from training.explain.objective import losses
from training.explain.train import BOUNDS_WEIGHT, Trainer, explain
from training.record.metrics import read_metrics

CPU = torch.device("cpu")


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with planted shards, for `small_config`; the checkpoints are planted, too."""
    plant(monkeypatch, Hues(), Hues(shift=0.5))
    write_planted(tmp_path / "shards")
    return tmp_path


def test_planted_objects_are_found(shards: Path) -> None:
    """Of new pictures; colours alone tell the objects, and grey things of all shades distract."""
    config = small_config(shards, steps=110)
    assert explain(config)
    source = Explain(weights=str(config.out))
    pictures, masks = zip(*(planted(number) for number in range(1000, 1040)), strict=True)
    maps = source(pictures)
    assert iou(maps, list(masks)) >= 0.8
    first, *_, last, checked = read_metrics(config.out)
    assert float(last["keep"]) < float(first["keep"])
    assert float(last["area"]) == pytest.approx(np.mean(masks), abs=0.1)
    assert set(first) == {"step", "kind", "keep", "entropy", "variation", "bounds", "area"}
    assert checked["kind"] == "check"
    assert float(checked["second_gain"]) > 0.1
    assert checked["second_gain"] != checked["first_gain"], "of two encoders"
    about = json.loads((config.out / INFO_FILE).read_text())
    assert about["warnings"] == []
    assert about["trained"] == json.loads((config.out / "config.json").read_text())
    assert about["trained"]["backbone"] == about["trained"]["second"] == "Hues"
    assert about["trained"]["fill"] == "mean"
    assert "--saliency explain:weights=" in (config.out / "README.md").read_text()


def test_a_stopped_training_ends_as_one_that_was_not(shards: Path) -> None:
    whole = small_config(shards, steps=24, out=shards / "whole")
    halved = small_config(shards, steps=24, out=shards / "halved", checkpoint_steps=7)
    assert explain(whole)
    assert not explain(halved, StopsAfter(10))
    assert not (halved.out / INFO_FILE).exists()
    (halved.out / "metrics.jsonl").open("a").write('{"step": 11, "kind": "train", "keep": 9}\n')
    assert explain(halved)
    states = [torch.load(c.out / WEIGHTS_FILE, weights_only=True) for c in (whole, halved)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert read_metrics(whole.out) == read_metrics(halved.out)
    before = (halved.out / WEIGHTS_FILE).stat().st_mtime_ns
    assert explain(halved), "there is nothing left to do"
    assert (halved.out / WEIGHTS_FILE).stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"other settings, .*steps: 24 -> 25\): give the same"):
        explain(small_config(shards, steps=25, out=halved.out))


def test_the_backbone_stays_as_it_is(shards: Path) -> None:
    trainer = Trainer(small_config(shards, steps=2), CPU)
    weights = {n: v.clone() for n, v in trainer.encoder.network.state_dict().items()}
    for crops in trainer._crops(0, 2):
        trainer._train_step(crops)
    for name, value in trainer.encoder.network.state_dict().items():
        assert torch.equal(value, weights[name])
    assert all(weight.grad is None for weight in trainer.encoder.network.parameters())
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.02 / 2), "it falls to 0"


def test_a_step_descends_the_weighed_sum_of_the_parts(shards: Path) -> None:
    given = {"entropy_weight": 2, "variation_weight": 3, "area_weight": 4, "area": (0.1, 0.3)}
    trainer = Trainer(small_config(shards, **given), CPU)
    (crops,), network = trainer._crops(0, 1), trainer.network
    mask, whole = network(crops[0]), trainer.encoder.forward(resized(crops[0], VIEW))
    seen = (whole, *features_under(trainer.encoder, crops, mask, "mean"))
    logs = [trainer.prototypes.log_p(features, 0.1) for features in seen]
    parts = losses(*logs, mask_B1PP=mask, area=(0.1, 0.3))
    loss = parts.keep - 2 * parts.entropy + 3 * parts.variation + 4 * parts.area
    expected = torch.autograd.grad(loss + BOUNDS_WEIGHT * parts.bounds, list(network.parameters()))
    trainer._train_step(crops)
    for weight, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


@pytest.mark.parametrize("second", ["untrained", "other"])
def test_only_an_untrained_second_encoder_is_calibrated(
    shards: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    norm = torch.nn.BatchNorm2d(3)
    plant(monkeypatch, Hues(), torch.nn.Sequential(norm, Hues()))
    assert explain(small_config(shards, steps=1, second=second))
    assert bool(norm.running_mean.any()) == (second == "untrained")  # type: ignore[union-attr]


def test_what_does_not_fit_is_named(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(words: str, **changes: object) -> None:
        with pytest.raises(InputError, match=words):
            Trainer(small_config(shards, **changes), CPU)

    refused("no shards at .*absent", shards=shards / "absent")
    refused("holds 96 images: wanted a batch, 97, or more", batch_size=97)
    refused("97 prototypes of 96 images", prototypes=97)
    refused("is no explainer's folder", out=shards / "shards")
    (shards / "a run").mkdir()
    (shards / "a run" / "config.json").write_text('{"data_digest": "0", "seed": 0}')
    refused("a run is no explainer's folder: choose another --out$", out=shards / "a run")
    assert not explain(small_config(shards, steps=9), StopsAfter(1))
    plant(monkeypatch, Colours(), Hues())
    refused("another backbone .*backbone: Hues -> Colours.*choose another --out", steps=9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prototypes": 1}, "prototypes 1 must be 2 or more"),
        ({"width": 6}, "width 6 must be a multiple of 4"),
        ({"area": (0.5, 0.5)}, "area 0.5 to 0.5: wanted 0 < least < greatest < 1"),
        ({"temperature": 0}, "must be above 0"),
        ({"entropy_weight": -1}, "entropy_weight -1 must be 0 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        small_config(Path("F"), **changes)
