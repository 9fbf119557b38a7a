"""The queue of keys and the momentum encoder."""

from dataclasses import replace

import torch
from torch import nn
from torch.nn.functional import normalize

from training.core.schedules import Moment
from training.methods.interface import momentum_copy, update_momentum
from training.methods.moco.method import KeyQueue, key_momentum_at
from training.methods.moco.settings import MoCoConfig


def make_queue() -> KeyQueue:
    return KeyQueue(12, 8, generator=torch.Generator().manual_seed(0))


def test_the_queue_replaces_the_oldest_keys_by_the_step_alone() -> None:
    first, resumed = make_queue(), make_queue()
    torch.testing.assert_close(first.keys_KD.norm(dim=1), torch.ones(12))
    assert first.keys_KD.unique(dim=0).shape[0] == 12
    keys = [normalize(torch.randn(4, 8), dim=1) for _ in range(5)]
    for step in range(4):
        first.enqueue(keys[step], step=step)
    resumed.load_state_dict(first.state_dict())
    before = first.keys_KD
    for queue in (first, resumed):
        queue.enqueue(keys[4], step=4)
        # 3 batches fit: steps 3 and 4 replaced steps 0 and 1.
        assert torch.equal(queue.keys_KD, torch.cat([keys[3], keys[4], keys[2]]))
    assert torch.equal(before, torch.cat([keys[3], *keys[1:3]])), "a graph may still need them"


def test_momentum_moves_parameters_and_leaves_buffers() -> None:
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
    assert (dict(target.named_buffers())["1.running_mean"] == 0).all()


def test_the_key_momentum_follows_its_schedule() -> None:
    config = MoCoConfig(key_momentum=0.9)
    assert key_momentum_at(config, Moment(50, 10, 100)) == 0.9
    rising = replace(config, key_momentum_end=1.0)
    momenta = [key_momentum_at(rising, Moment(step, 10, 100)) for step in (0, 50, 100)]
    torch.testing.assert_close(momenta, [0.9, 0.95, 1.0])
