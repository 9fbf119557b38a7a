"""Coloured planes, and values copied onto them, against the plain operations of torch."""

import pytest
import torch
from torch import Tensor

from training.views.planes import colour_levels, copy_where

BATCH, HEIGHT, WIDTH = 3, 6, 5


def levels(height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = (BATCH, height, width, 3)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


def matrices() -> tuple[Tensor, Tensor]:
    """Some that bring colours below 0 and above 1."""
    generator = torch.Generator().manual_seed(1)
    matrix, mean_matrix = torch.rand(2, BATCH, 3, 3, generator=generator) - 0.3
    return matrix / 255, mean_matrix / 255


def plainly(image: Tensor, matrix: Tensor, mean_matrix: Tensor) -> Tensor:
    flat = image.double().flatten(2)
    offset = mean_matrix.double() @ flat.mean(dim=2, keepdim=True)
    return (matrix.double() @ flat + offset).clamp(0, 1).view(image.shape).float()


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (64, 64), (224, 200)])
def test_levels_are_coloured(size: tuple[int, int]) -> None:
    image = levels(*size)
    made = colour_levels(image, *matrices())
    torch.testing.assert_close(made, plainly(image, *matrices()), rtol=0, atol=1e-6)
    assert float(made.min()) == 0.0
    assert float(made.max()) == 1.0
    matrix, mean_matrix = matrices()
    alone = colour_levels(image[1:2], matrix[1:2], mean_matrix[1:2])
    assert torch.equal(alone[0], made[1]), "the same in any batch"


@pytest.mark.parametrize("given", [False, True])
def test_every_memory_order_gives_the_same_planes(given: bool) -> None:
    last = levels()
    wide = levels().repeat(1, 1, 1, 2)[..., :WIDTH]  # rows stand apart
    expected = colour_levels(last, *matrices())
    for image in (last, last.contiguous(), wide):
        out = torch.empty(image.shape) if given else None
        made = colour_levels(image, *matrices(), out=out)
        assert made.dtype == torch.float32
        assert made.is_contiguous()
        assert out is None or made is out
        assert torch.equal(made, expected)


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
