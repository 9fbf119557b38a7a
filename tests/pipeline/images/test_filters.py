"""Normalisation and the high-pass, against torchvision and values computed in numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from pipeline.images.filters import IMAGENET_MEAN, IMAGENET_STD, high_pass, normalise

ROUNDING = 1e-13  # sums of at most 31 x 31 float64 products of size 1


@pytest.fixture(scope="module")
def fills(golden: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in np.load(golden / "fills.npz").items()}


def test_normalise_golden(fills: dict[str, Tensor]) -> None:
    got = normalise(fills["image01"][None])[0]
    torch.testing.assert_close(got, fills["normalised"], rtol=0, atol=ROUNDING)


def test_high_pass_golden(fills: dict[str, Tensor]) -> None:
    got = high_pass(fills["normalised"][None], 11, 5.0)[0]
    torch.testing.assert_close(got, fills["high_pass"], rtol=0, atol=ROUNDING)


def test_normalise_is_torchvisions_to_the_last_bit() -> None:
    image = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(normalise(image), reference.normalize(image, IMAGENET_MEAN, IMAGENET_STD))


def test_a_constant_image_has_no_high_pass() -> None:
    image = torch.full((1, 3, 16, 20), 0.3, dtype=torch.float64)
    assert float(high_pass(image, 11, 5.0).abs().max()) < ROUNDING
