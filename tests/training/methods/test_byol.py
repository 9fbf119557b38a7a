"""BYOL against a step written by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from tests.training.methods.small import (
    BATCH,
    MOMENT,
    Scenario,
    small_inputs,
    small_method,
    weighted,
)
from training.methods.byol.settings import BYOLConfig

CONFIG = BYOLConfig(
    embedding_dim=6, head_width=7, predictor_width=9, target_momentum=0.9, batch_norm_group=4
)


def scenarios() -> dict[str, Scenario]:
    config, inputs = replace(CONFIG, batch_norm_group=2), small_inputs(CONFIG)
    return {
        "byol": (small_method(config), inputs),
        "byol weights": (small_method(config), weighted(inputs)),
    }


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_step_is_what_the_paper_says(symmetric: bool) -> None:
    config = replace(CONFIG, symmetric=symmetric)
    method, reference = small_method(config), small_method(config)
    inputs = small_inputs(config)
    one, other = inputs.views["query"], inputs.views["key"]
    result = method.step(inputs, encode=method.trained, moment=MOMENT)

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
    end = replace(MOMENT, step=100)
    last = method.step(inputs, encode=method.trained, moment=end).settings["target_momentum"]
    assert last == pytest.approx(1.0)


def test_images_count_as_much_as_their_weights() -> None:
    inputs, losses = small_inputs(CONFIG), []
    halves = torch.tensor([2.0, 0.0], dtype=torch.float64).repeat(BATCH // 2)
    for weights in (None, torch.ones_like(halves), halves, halves.flip(0)):
        method = small_method(CONFIG)
        weighed = inputs._replace(weights_B=weights)
        losses.append(method.step(weighed, encode=method.trained, moment=MOMENT).loss)
    assert torch.equal(losses[0], losses[1])
    assert losses[2] != losses[3]
    torch.testing.assert_close((losses[2] + losses[3]) / 2, losses[0])
