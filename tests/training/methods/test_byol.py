"""BYOL against a step written by hand, and many ranks against one process."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from pipeline.core.errors import InputError
from tests.training.methods.small import (
    BATCH,
    GROUP,
    MOMENT,
    Scenario,
    as_inputs,
    assert_ranks_are_one_process,
    make_images,
    small_backbone,
    weighted,
)
from training.core.schedules import Moment
from training.methods.byol.method import BYOL
from training.methods.byol.settings import BYOLConfig

CONFIG = BYOLConfig(
    embedding_dim=6,
    head_width=7,
    predictor_width=9,
    target_momentum=0.9,
    batch_norm_group=4,
)


def make_method(config: BYOLConfig = CONFIG) -> BYOL:
    method = BYOL(config, small_backbone(), batch_size=BATCH, seed=1).double()
    with torch.no_grad():  # a target that differs, as in mid-run
        for parameter in method.target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_step_is_what_the_paper_says(symmetric: bool) -> None:
    config = replace(CONFIG, symmetric=symmetric)
    method, reference = make_method(config), make_method(config)
    one, other = make_images(2)
    result = method.step(as_inputs(one, other), encode=method.trained, moment=MOMENT)

    online, target = reference.online, reference.target
    momentum = 1 - (1 - 0.9) * (math.cos(math.pi * 5 / 100) + 1) / 2
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), online.encoder.parameters(), strict=True):
            slow.mul_(momentum).add_(fast, alpha=1 - momentum)
    expected = torch.zeros((), dtype=torch.float64)
    for seen, predicted in ((one, other), (other, one)) if symmetric else ((one, other),):
        for group in range(0, BATCH, 4):
            part = slice(group, group + 4)
            features = online.encoder.head(online.encoder.backbone(seen[part]))
            mine = normalize(online.predictor(features), dim=1)
            with torch.no_grad():
                aim = normalize(target.head(target.backbone(predicted[part])), dim=1)
            expected = expected + (mine - aim).square().sum() / BATCH
    torch.testing.assert_close(result.loss, expected)
    result.loss.backward()
    expected.backward()
    for ours, theirs in zip(online.parameters(), method.online.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert all(parameter.grad is None for parameter in method.target.parameters())
    assert result.settings == {"target_momentum": pytest.approx(momentum)}


def test_descending_the_gradient_lowers_the_loss() -> None:
    method = make_method(replace(CONFIG, target_momentum=0.999))
    one, other = make_images(2)
    optimiser = torch.optim.SGD(method.trained.parameters(), lr=0.02)
    losses = []
    for _ in range(15):
        result = method.step(as_inputs(one, other), encode=method.trained, moment=MOMENT)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        losses.append(result.loss.item())
    assert all(after < before for before, after in pairwise(losses)), losses


def test_the_target_moves_less_and_less() -> None:
    momenta = [CONFIG.momentum_at(Moment(step, 10, 100)) for step in (0, 50, 100)]
    assert momenta == pytest.approx([0.9, 0.95, 1.0])


def scenarios() -> dict[str, Scenario]:
    config = replace(CONFIG, batch_norm_group=GROUP)
    inputs = as_inputs(*make_images(2))
    return {
        "both ways": (make_method(config), inputs),
        "weights": (make_method(config), weighted(inputs)),
    }


def test_images_count_as_much_as_their_weights() -> None:
    inputs, losses = as_inputs(*make_images(2)), []
    halves = torch.tensor([2.0, 0.0], dtype=torch.float64).repeat(BATCH // 2)
    for weights in (None, torch.ones_like(halves), halves, halves.flip(0)):
        method = make_method()
        weighed = inputs._replace(weights_B=weights)
        losses.append(method.step(weighed, encode=method.trained, moment=MOMENT).loss)
    assert torch.equal(losses[0], losses[1])
    assert losses[2] != losses[3]
    torch.testing.assert_close((losses[2] + losses[3]) / 2, losses[0])


def test_ranks_give_the_loss_and_gradients_of_one_process(tmp_path: Path) -> None:
    assert_ranks_are_one_process(scenarios, 2, tmp_path / "ranks")


@pytest.mark.parametrize(
    ("wrong", "name"),
    [({"target_momentum": 1.0}, "target_momentum 1.0"), ({"predictor_width": 0}, "predictor_w")],
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=rf"method\.{name}"):
        BYOLConfig(**wrong)
