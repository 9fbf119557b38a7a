"""A step's tensor functions never wait for the device.

Fake tensors have a device, a shape and no values: reading one (`.item()`, `if tensor`, a boolean
index) raises, and so does mixing devices. So a fake GPU shows both without a GPU.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from training.augment import ColourDraws, augment_colours
from training.draws import View
from training.fills import FILLS, UnmaskedView
from training.foreground import foreground
from training.losses import info_nce
from training.masks import (
    MASK_STRATEGIES,
    MaskDraws,
    hard_negative_mask,
    masked_share,
    query_mask,
)

BATCH, GRID, SIZE = 4, 7, 28


@pytest.fixture(autouse=True)
def fake_gpu() -> Iterator[None]:
    with FakeTensorMode(), torch.device("cuda"):
        yield


def image() -> Tensor:
    return torch.empty(BATCH, 3, SIZE, SIZE)


def patches() -> Tensor:
    return torch.empty(BATCH, GRID, GRID, dtype=torch.bool)


def mask_draws() -> MaskDraws:
    return MaskDraws(
        ratio_B=torch.empty(BATCH, dtype=torch.float64),
        scores_BCN=torch.empty(BATCH, 3, GRID * GRID),
        shape_B=torch.empty(BATCH),
        box_B4=torch.empty(BATCH, 4, dtype=torch.int64),
    )


@pytest.mark.parametrize("read", [Tensor.item, bool, Tensor.nonzero])
def test_a_read_is_seen(read: Callable[[Tensor], object]) -> None:
    with pytest.raises(Exception, match=r"aten\.") as caught:
        read(torch.empty(1))
    assert isinstance(caught.value, DataDependentOutputException | RuntimeError)


@pytest.mark.parametrize("strategy", MASK_STRATEGIES)
@pytest.mark.parametrize("high_pass", [False, True])
def test_masks(strategy: str, high_pass: bool) -> None:
    marked = foreground(torch.empty(BATCH, GRID, GRID))
    query = query_mask(marked, mask_draws(), strategy=strategy, view_size=SIZE, high_pass=high_pass)
    negative = hard_negative_mask(marked, mask_draws(), view_size=SIZE, high_pass=high_pass)
    for mask in (query, negative):
        assert mask.shape == (BATCH, 3 if high_pass else 1, SIZE, SIZE)
        assert mask.device.type == "cuda"
        assert masked_share(mask, marked)[0].device.type == "cuda"


@pytest.mark.parametrize("name", FILLS)
def test_fills(name: str) -> None:
    fill = FILLS[name]
    seeds = torch.empty(BATCH, dtype=torch.int64)
    view = UnmaskedView(fill.prepare(image()), image(), seeds, View.QUERY)
    filled = fill.apply(view, torch.empty(BATCH, 1, SIZE, SIZE, dtype=torch.bool))
    assert filled.shape == image().shape
    assert filled.device.type == "cuda"


def test_colours() -> None:
    draws = ColourDraws(torch.empty(BATCH, 3, 3), torch.empty(BATCH, 3, 3), torch.empty(BATCH, 5))
    assert augment_colours(image(), draws).device.type == "cuda"


def test_loss() -> None:
    rows = torch.empty(BATCH, 8)
    loss, _ = info_nce(
        rows,
        rows,
        torch.empty(16, 8),
        temperature=0.2,
        hard_negatives_BND=rows[:, None],
        rho=torch.empty(()),
    )
    assert loss.device.type == "cuda"
