"""Images as planes, and values copied onto them, against the plain operations of torch."""

import pytest
import torch

from training.planes import copy_where, float_planes

BATCH, HEIGHT, WIDTH = 3, 6, 5


def pixels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (BATCH, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("given", [False, True])
def test_every_memory_order_gives_the_same_planes(given: bool) -> None:
    last = pixels().permute(0, 3, 1, 2)
    wide = pixels().repeat(1, 1, 2, 1).permute(0, 3, 1, 2)[..., :WIDTH]  # rows stand apart
    for image in (last, last.contiguous(), wide, last[1:2].expand(BATCH, -1, -1, -1)):
        out = torch.empty(image.shape) if given else None
        made = float_planes(image, out=out)
        assert made.dtype == torch.float32
        assert made.is_contiguous()
        assert out is None or made is out
        assert torch.equal(made, image.contiguous().float())
    assert torch.equal(float_planes(wide), last.contiguous().float())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_copied_where_the_mask_is_true(channels: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    onto = torch.rand(BATCH, 3, HEIGHT, WIDTH, generator=generator).to(dtype)
    mask = torch.rand(BATCH, channels, HEIGHT, WIDTH, generator=generator) < 0.4
    values = torch.where(mask, torch.rand(onto.shape, generator=generator).to(dtype), torch.nan)
    expected = torch.where(mask, values, onto)
    assert copy_where(mask, values, onto) is onto
    assert torch.equal(onto, expected)
