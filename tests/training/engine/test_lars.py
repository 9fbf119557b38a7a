"""LARS against the formula written out tensor by tensor."""

import copy

import pytest
import torch
from torch import Tensor, nn

from training.engine.lars import LARS

LR, MOMENTUM, DECAY, TRUST = 0.3, 0.9, 1e-2, 0.001


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((4, 3), (2, 3, 3, 3), (5,))
    return [
        nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64)) for size in sizes
    ]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters()]


@pytest.mark.parametrize(("trust", "clip"), [(TRUST, False), (TRUST, True), (0.2, True)])
def test_is_the_formula(trust: float, clip: bool) -> None:
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
        for group in optimiser.param_groups:
            group["lr"] = rate
        for parameter, gradient in zip(ours, gradients(step), strict=True):
            parameter.grad = gradient.clone()
        optimiser.step()
        for index, gradient in enumerate(gradients(step)):
            adapted = index < 2
            update = gradient + (DECAY * theirs[index] if adapted else 0)
            if adapted:
                factor = trust * theirs[index].norm() / update.norm()
                update = update * (min(float(factor) / rate, 1.0) if clip else factor)
            momenta[index] = MOMENTUM * momenta[index] + update
            theirs[index] = theirs[index] - rate * momenta[index]
        for mine, reference in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine.detach(), reference)


def test_without_adaptation_it_is_sgd() -> None:
    ours, theirs = parameters(), parameters()
    lars = LARS([{"params": ours, "adapted": False}], lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    sgd = torch.optim.SGD(theirs, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    for step in range(3):
        for parameter, other, gradient in zip(ours, theirs, gradients(step), strict=True):
            parameter.grad, other.grad = gradient.clone(), gradient.clone()
        lars.step()
        sgd.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.detach(), other.detach())


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_a_norm_of_zero_is_no_division(zero: str) -> None:
    weight = nn.Parameter(torch.zeros(2, 2) if zero == "weight" else torch.ones(2, 2))
    weight.grad = torch.zeros(2, 2) if zero == "gradient" else torch.ones(2, 2)
    before = weight.detach().clone()
    LARS([weight], lr=0.1).step()
    # A weight of 0 takes a plain step: it could never leave 0 otherwise.
    torch.testing.assert_close(weight.detach(), before - 0.1 * weight.grad)


def test_parameters_without_a_gradient_are_left_alone() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    LARS([weight], lr=0.1, weight_decay=1.0).step()
    assert torch.equal(weight.detach(), torch.ones(2, 2))


def test_its_state_goes_through_a_checkpoint() -> None:
    ours, theirs = parameters(), parameters()
    first, second = LARS(ours, lr=LR), LARS(theirs, lr=LR)

    def steps(optimiser: LARS, weights: list[nn.Parameter], which: range) -> None:
        for step in which:
            for parameter, gradient in zip(weights, gradients(step), strict=True):
                parameter.grad = gradient
            optimiser.step()

    steps(first, ours, range(2))
    for weight, other in zip(ours, theirs, strict=True):
        other.data.copy_(weight)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(first, ours, range(2, 4))
    steps(second, theirs, range(2, 4))
    for weight, other in zip(ours, theirs, strict=True):
        assert torch.equal(weight, other)
