"""Masked views by hand, and masks that keep all, nothing, the same, or carry a message."""

import re
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.explain.planted import VIEW, Hues, encoders, planted
from training.explain.check import MaskCheck, check_masks, features_under, gains
from training.randomness.draws import KEY, QUERY
from training.views.fills import FILLS, UnmaskedView, sample_noise

NUM = 24


class Pixels(nn.Module):
    """All pixels are the features."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.flatten(1)


class Bars(nn.Module):
    """Reads how wide the bars are that a mask leaves visible, whatever is in them."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        edges_BW = x_BCHW.mean(dim=(1, 2)).diff(dim=1).abs()
        waves_BK: Tensor = torch.fft.rfft(edges_BW, dim=1)
        return waves_BK.abs()[:, 1:]


def crops() -> tuple[Tensor, Tensor]:
    pictures = np.stack([planted(number)[0] for number in range(NUM)])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return images, torch.arange(NUM)


def truth(images: Tensor) -> Tensor:
    masks = torch.from_numpy(np.stack([planted(number)[1] for number in range(NUM)]))[:, None]
    return nn.functional.interpolate(masks, 56)


@pytest.mark.parametrize("fill", FILLS)
def test_masked_views_are_those_of_pretraining(fill: str) -> None:
    """Both sides of a mask of whole pixels, filled as `Fill.apply` fills."""
    encoder, (images, seeds) = encoders(Pixels(), Pixels())[0], crops()
    small = nn.functional.interpolate(images, VIEW, mode="bilinear", antialias=True)
    mask = (torch.rand(NUM, 1, VIEW, VIEW) < 0.4).float()
    found = features_under(encoder, (images, seeds), mask, fill)
    for seen, weight, view in zip(found, (mask, 1 - mask), (QUERY, KEY), strict=True):
        noise = partial(sample_noise, seeds, view=view, size=(3, VIEW, VIEW))
        unmasked = UnmaskedView(encoder.prepare(small), small, noise)
        expected = FILLS[fill].apply(unmasked, weight == 0)
        torch.testing.assert_close(seen, expected.flatten(1))


def test_gradients_reach_the_mask_through_a_frozen_network() -> None:
    encoder = encoders(Hues(), Hues())[0]
    encoder.network.requires_grad_(False)
    mask = torch.full((NUM, 1, 56, 56), 0.5, requires_grad=True)
    kept, hidden = features_under(encoder, crops(), mask, "mean")
    (kept + 2 * hidden).sum().backward()
    assert mask.grad is not None
    assert bool((mask.grad.flatten(1).abs().sum(dim=1) > 0).all())


def bars(images: Tensor) -> Tensor:
    """A pattern that tells the hue, and has nothing to do with the object's place."""
    place = torch.arange(56)
    rows = [(place // (number % 6 + 2)) % 2 for number in range(len(images))]
    return torch.stack(rows).float()[:, None, None].expand(-1, 1, 56, -1)


def centre(images: Tensor) -> Tensor:
    mask = torch.zeros(len(images), 1, 56, 56)
    mask[..., 14:42, 14:42] = 1
    return mask


@pytest.mark.parametrize(
    ("masks_of", "backbone", "words"),
    [
        (truth, Hues(), []),
        (
            lambda images: torch.ones(len(images), 1, 56, 56),
            Hues(),
            ["100% .* keep all", "the same"],
        ),
        (
            lambda images: torch.full((len(images), 1, 56, 56), 0.4),
            Hues(),
            ["keep nothing", "the same"],
        ),
        (centre, Hues(), ["nearly the same for every image"]),
        (bars, Bars(), ["carry a message instead of showing the object"]),
    ],
    ids=["honest", "all", "none", "same", "message"],
)
def test_degenerate_masks_are_named(
    masks_of: Callable[[Tensor], Tensor], backbone: nn.Module, words: list[str]
) -> None:
    first, second = encoders(backbone, Hues(shift=0.5))
    found = check_masks(masks_of, (first, second), [crops(), crops()], "mean")
    said = found.warnings()
    assert len(said) == len(words), said
    for sentence, wanted in zip(said, words, strict=True):
        assert re.search(wanted, sentence)
    if masks_of in (truth, bars):
        assert found.first_gain > 0.02


def test_figures_by_hand() -> None:
    """Half of the masks keep a quarter, half keep all; both encoders see the same."""
    quarter = torch.zeros(NUM, 1, 56, 56)
    quarter[::2, :, :28, :28] = 1
    quarter[1::2] = 1
    first, second = encoders(Hues(), Hues())
    found = check_masks(lambda _: quarter, (first, second), [crops()], "mean")
    assert (found.all_share, found.none_share) == (0.5, 0)
    assert found.first_gain == found.second_gain
    # Three quarters of the cells vary with variance 1/4; all cells are 1 with probability 5/8.
    assert found.own_share == pytest.approx((0.75 / 4) / (5 / 8 * 3 / 8))
    assert (
        MaskCheck(**vars(found) | {"all_share": 0.51}).warnings()[0] == "51% of the masks keep all"
    )


def test_gains_are_differences_of_centred_cosines() -> None:
    rows = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    mean = rows[0].mean(dim=0)
    for whole, own, other, gain in zip(*rows, gains(*rows), strict=True):
        a, b, c = ((x - mean) / (x - mean).norm() for x in (whole, own, other))
        assert float(gain) == pytest.approx(float(a @ b - a @ c), abs=1e-6)
