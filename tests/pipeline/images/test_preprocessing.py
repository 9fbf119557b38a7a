"""The test-time preparation is torchvision's; what cannot be prepared is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from pipeline.core.errors import InputError
from pipeline.images.filters import high_pass
from pipeline.images.pixel_format import IMAGENET_MEAN, IMAGENET_STD
from pipeline.images.preprocessing import HighPass, Preprocess, Preprocessing, short_side

PLAIN = Preprocessing(view_size=64, resize=73)


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
    return torch.from_numpy(values)


@pytest.mark.parametrize(("view_size", "short"), [(224, 256), (64, 73), (128, 146)])
def test_short_side(view_size: int, short: int) -> None:
    assert short_side(view_size) == short


@settings(max_examples=50, deadline=None)
@given(st.integers(20, 300), st.integers(20, 300))
@example(73, 73)
@example(64, 500)
def test_equals_torchvisions_transforms(height: int, width: int) -> None:
    image = noise(height, width)
    expected = tv.center_crop(tv.resize(image, [73], antialias=True), [64, 64])
    expected = tv.to_dtype(expected, torch.float32, scale=True)
    expected = tv.normalize(expected, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(Preprocess(PLAIN)(image), expected)


def test_batch_equals_single() -> None:
    images = torch.stack([noise(80, 100, seed) for seed in range(3)])
    preprocess = Preprocess(PLAIN)
    batch = preprocess(images)
    assert batch.shape == (3, 3, 64, 64)
    for image, view in zip(images, batch, strict=True):
        torch.testing.assert_close(preprocess(image), view)


def test_own_statistics_and_the_high_pass_after_them() -> None:
    own: dict[str, Any] = {"view_size": 64, "resize": 64, "mean": (0.5, 0.4, 0.3)}
    own["std"] = (0.25, 0.5, 1.0)
    filtered = Preprocess(Preprocessing(**own, high_pass=HighPass(kernel=5, sigma=2.0)))
    image01 = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(own[name]).view(3, 1, 1) for name in ("mean", "std"))
    normalised = Preprocess(Preprocessing(**own)).prepare(image01)
    torch.testing.assert_close(normalised, (image01 - mean) / std)
    torch.testing.assert_close(filtered.prepare(image01), high_pass(normalised, 5, 2.0))
    # No colour is left of a flat image.
    flat = filtered(torch.full((3, 64, 64), 200, dtype=torch.uint8))
    torch.testing.assert_close(flat, torch.zeros(3, 64, 64), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "image", [torch.zeros(3, 64, 64), torch.zeros(64, 64, 3, dtype=torch.uint8)]
)
def test_bad_images(image: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"wanted torch\.uint8 \[B, 3, H, W\]"):
        Preprocess(PLAIN)(image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"view_size": 64, "resize": 63}, "view_size 64 and resize 63"),
        ({"view_size": 0, "resize": 63}, "view_size 0"),
        ({"view_size": 8, "resize": 8, "std": (0.0, 1.0, 1.0)}, "std > 0"),
        (
            {"view_size": 8, "resize": 8, "high_pass": HighPass(kernel=17, sigma=1.0)},
            "kernel of 17 does not fit",
        ),
    ],
)
def test_bad_preprocessing(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocessing(**arguments)


@pytest.mark.parametrize(("kernel", "sigma"), [(4, 1.0), (1, 1.0), (3, 0.0)])
def test_bad_high_pass(kernel: int, sigma: float) -> None:
    with pytest.raises(InputError, match="odd kernel >= 3"):
        HighPass(kernel=kernel, sigma=sigma)
