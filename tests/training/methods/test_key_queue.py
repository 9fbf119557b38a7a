import pytest
import torch
from torch.nn.functional import normalize

from pipeline.core.errors import InputError
from training.methods.moco.key_queue import KeyQueue


def make_queue(size: int = 12, batch_size: int = 4) -> KeyQueue:
    return KeyQueue(size, 8, batch_size=batch_size, generator=torch.Generator().manual_seed(0))


def test_starts_with_random_unit_keys() -> None:
    queue = make_queue()
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(12))
    assert queue.keys.unique(dim=0).shape[0] == 12


def test_replaces_the_oldest_first_and_wraps_around() -> None:
    queue = make_queue()
    batches = [normalize(torch.randn(4, 8), dim=1) for _ in range(5)]
    for step, keys in enumerate(batches):
        queue.enqueue(keys, step=step)
    # 3 batches fit: steps 3 and 4 took the places of steps 0 and 1.
    assert torch.equal(queue.keys, torch.cat([batches[3], batches[4], batches[2]]))


def test_place_follows_from_the_step_alone() -> None:
    first, resumed = make_queue(), make_queue()
    keys = [normalize(torch.randn(4, 8), dim=1) for _ in range(4)]
    for step in range(3):
        first.enqueue(keys[step], step=step)
    resumed.load_state_dict(first.state_dict())
    for queue in (first, resumed):
        queue.enqueue(keys[3], step=3)
    assert torch.equal(first.keys, resumed.keys)


@pytest.mark.parametrize("size", [0, 2, 10])
def test_a_queue_holds_whole_batches(size: int) -> None:
    with pytest.raises(InputError, match=rf"queue_size {size} is not a multiple.*batch 4"):
        make_queue(size=size)
