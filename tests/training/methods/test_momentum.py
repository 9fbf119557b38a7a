import torch
from torch import nn

from training.methods.momentum import momentum_copy, update_momentum


def test_moves_parameters_by_one_minus_momentum_and_leaves_buffers() -> None:
    source = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    target = momentum_copy(source)
    assert not any(p.requires_grad for p in target.parameters())
    before = [p.clone() for p in target.parameters()]
    with torch.no_grad():
        for p in source.parameters():
            p.add_(torch.randn_like(p))
    source(torch.randn(6, 3, dtype=torch.float64))
    update_momentum(target, source, 0.9)
    for old, new, goal in zip(before, target.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * goal)
    batch_norm = target[1]
    assert isinstance(batch_norm, nn.BatchNorm1d)
    assert batch_norm.running_mean is not None
    assert (batch_norm.running_mean == 0).all()
