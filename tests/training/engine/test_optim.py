"""Which optimiser a configuration names, and which parameters it treats how."""

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core.errors import InputError
from training.engine.lars import LARS
from training.engine.optim import OptimConfig, build_optimiser


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("lars", LARS), ("adamw", torch.optim.AdamW)]
)
def test_the_name_decides(name: str, kind: type) -> None:
    config = OptimConfig(name=name, lr=0.5, weight_decay=0.1)  # type: ignore[arg-type]
    optimiser = build_optimiser(config, network(), torch.device("cpu"))
    assert type(optimiser) is kind
    assert all(group["lr"] == 0.5 for group in optimiser.param_groups)


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_biases_and_batch_norm_are_not_decayed(name: str) -> None:
    module = network()
    config = OptimConfig(name=name, weight_decay=0.1, trust_coefficient=0.002)  # type: ignore[arg-type]
    weights, others = build_optimiser(config, module, torch.device("cpu")).param_groups
    assert (weights["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in weights["params"]} == {id(module[i].weight) for i in (0, 3)}  # type: ignore[index]
    assert sum(len(group["params"]) for group in (weights, others)) == 6
    if name == "lars":
        assert (weights["adapted"], others["adapted"]) == (True, False)
        assert weights["trust_coefficient"] == 0.002


def test_sgd_decays_everything_as_in_the_paper() -> None:
    (group,) = build_optimiser(OptimConfig(), network(), torch.device("cpu")).param_groups
    assert len(group["params"]) == 6
    assert (group["weight_decay"], group["momentum"]) == (1e-4, 0.9)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"name": "adam"}, "unknown optimiser 'adam': choose from sgd, lars, adamw"),
        ({"lr": 0.0}, r"optim\.lr"),
        ({"momentum": 1.0}, r"optim\.momentum"),
        ({"weight_decay": -1.0}, r"optim\.weight_decay"),
        ({"warmup_epochs": -1.0}, r"optim\.warmup_epochs"),
        ({"trust_coefficient": 0.0}, r"optim\.trust_coefficient"),
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        OptimConfig(**wrong)
