"""Optimisers by name, and LARS against the formula written out tensor by tensor."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.core.errors import InputError
from training.config.settings import OptimConfig
from training.engine.optimisers import LARS, build_optimiser

LR, MOMENTUM, DECAY, TRUST = 0.3, 0.9, 1e-2, 0.001


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("lars", LARS), ("adamw", torch.optim.AdamW)]
)
def test_the_name_decides_and_only_sgd_decays_biases_and_batch_norm(name: str, kind: type) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    config = OptimConfig(
        name=name,  # type: ignore[arg-type]
        lr=0.5,
        weight_decay=0.1,
        trust_coefficient=0.002,
    )
    optimiser = build_optimiser(config, module, torch.device("cpu"))
    assert isinstance(optimiser, kind)
    groups = optimiser.param_groups
    assert all(group["lr"] == 0.5 for group in groups)
    assert sum(len(group["params"]) for group in groups) == 6
    assert groups[0]["weight_decay"] == 0.1
    if name == "sgd":
        assert (len(groups), groups[0]["momentum"]) == (1, 0.9)
        return
    weights, others = groups
    assert {id(p) for p in weights["params"]} == {id(module[i].weight) for i in (0, 3)}
    assert others["weight_decay"] == 0
    if name == "lars":
        assert (weights["adapted"], others["adapted"]) == (True, False)
        assert (weights["trust_coefficient"], weights["momentum"]) == (0.002, 0.9)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_steps_are_those_of_torchs_class_to_the_bit_also_from_a_state_of_that(
    name: str, kind: type[torch.optim.SGD | torch.optim.AdamW]
) -> None:
    theirs = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    ours = copy.deepcopy(theirs)
    config = OptimConfig(name=name, lr=0.1, weight_decay=0.01)  # type: ignore[arg-type]

    def built() -> Optimizer:
        return build_optimiser(config, ours, torch.device("cpu"))

    same = dict(zip(ours.parameters(), theirs.parameters(), strict=True))
    groups = built().param_groups
    reference = kind([group | {"params": [same[p] for p in group["params"]]} for group in groups])
    optimiser = built()
    for step in range(6):
        if step == 3:
            optimiser = built()
            optimiser.load_state_dict(copy.deepcopy(reference.state_dict()))
        for one, network in ((optimiser, ours), (reference, theirs)):
            one.zero_grad()
            torch.manual_seed(step)
            network(torch.randn(5, 3)).square().sum().backward()
            one.step()
        assert all(torch.equal(mine, other) for mine, other in same.items())
    mine, other = optimiser.state_dict(), reference.state_dict()
    assert mine["param_groups"] == other["param_groups"]
    torch.testing.assert_close(mine["state"], other["state"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("name", "adam"),
        ("lr", 0.0),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("warmup_epochs", -1.0),
        ("trust_coefficient", 0.0),
    ],
)
def test_settings_out_of_range_are_named(name: str, wrong: Any) -> None:  # noqa: ANN401
    with pytest.raises(
        InputError, match=rf"optim\.{name}|unknown optimiser 'adam': choose from sgd"
    ):
        OptimConfig(**{name: wrong})


def normal(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((4, 3), (2, 3, 3, 3), (5,))
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(values) for values in normal(0)]


def gradients(step: int) -> list[Tensor]:
    return normal(100 + step)


def take_steps(optimiser: Optimizer, steps: range) -> None:
    """Steps with the same gradients for every optimiser of `parameters`, at a falling rate."""
    weights = [p for group in optimiser.param_groups for p in group["params"]]
    for step in steps:
        for group in optimiser.param_groups:
            group["lr"] = LR / (step + 1)
        for parameter, gradient in zip(weights, gradients(step), strict=True):
            parameter.grad = gradient
        optimiser.step()


@pytest.mark.parametrize(("trust", "clip"), [(TRUST, False), (TRUST, True), (0.2, True)])
def test_lars_is_the_formula(trust: float, clip: bool) -> None:
    ours, theirs = parameters(), [p.detach().clone() for p in parameters()]
    optimiser = LARS(
        [{"params": ours[:2]}, {"params": ours[2:], "adapted": False, "weight_decay": 0.0}],
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        trust_coefficient=trust,
        clip=clip,
    )
    momenta = [torch.zeros_like(p) for p in theirs]
    for step in range(4):
        rate = LR / (step + 1)
        take_steps(optimiser, range(step, step + 1))
        for index, gradient in enumerate(gradients(step)):
            update = gradient
            if index < 2:  # adapted
                update = gradient + DECAY * theirs[index]
                factor = trust * theirs[index].norm() / update.norm()
                update = update * (min(float(factor) / rate, 1.0) if clip else factor)
            momenta[index] = MOMENTUM * momenta[index] + update
            theirs[index] = theirs[index] - rate * momenta[index]
        for mine, reference in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine.detach(), reference)


def test_lars_without_adaptation_is_sgd() -> None:
    ours, theirs = parameters(), parameters()
    groups = [{"params": ours, "adapted": False}]
    take_steps(LARS(groups, lr=LR, momentum=MOMENTUM, weight_decay=DECAY), range(3))
    sgd = torch.optim.SGD(theirs, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    take_steps(sgd, range(3))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.detach(), reference.detach())


def test_lars_goes_through_a_checkpoint() -> None:
    ours, theirs = parameters(), parameters()
    first, undisturbed = LARS(ours, lr=LR), LARS(theirs, lr=LR)
    take_steps(first, range(2))
    resumed = LARS(ours, lr=LR)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    take_steps(resumed, range(2, 5))
    take_steps(undisturbed, range(5))
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_a_norm_of_zero_is_no_division(zero: str) -> None:
    weight = nn.Parameter(torch.zeros(2, 2) if zero == "weight" else torch.ones(2, 2))
    weight.grad = torch.zeros(2, 2) if zero == "gradient" else torch.ones(2, 2)
    without_gradient = nn.Parameter(torch.ones(2, 2))
    before = weight.detach().clone()
    LARS([{"params": [weight]}, {"params": [without_gradient], "weight_decay": 1.0}], lr=0.1).step()
    # A weight of 0 takes a plain step: it could never leave 0 otherwise.
    torch.testing.assert_close(weight.detach(), before - 0.1 * weight.grad)
    assert torch.equal(without_gradient.detach(), torch.ones(2, 2))
