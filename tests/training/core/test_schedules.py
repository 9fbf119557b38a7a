"""Learning rate and warm-up."""

import pytest
import torch

from training.core.schedules import Moment, cosine_lr, half_cosine


def test_cosine_is_torchs_without_warmup() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20)
    for step in range(20):
        got = cosine_lr(step, base_lr=0.3, total_steps=20, warmup_steps=0)
        assert got == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        schedule.step()


def test_warmup_rises_to_the_peak_meets_the_cosine_and_ends() -> None:
    rates = [cosine_lr(s, base_lr=0.4, total_steps=12, warmup_steps=4) for s in (*range(13), 99)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert rates[8] == pytest.approx(0.2), "half-way down the cosine"
    assert rates[12:] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    warm = [cosine_lr(s, base_lr=1.0, total_steps=4, warmup_steps=4) for s in range(5)]
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0]), "a run that is all warm-up"


def test_momenta() -> None:
    momenta = [half_cosine(Moment(step, 5, 10), 0.9, 1.0) for step in (0, 5, 10)]
    assert momenta == pytest.approx([0.9, 0.95, 1.0])
