"""What goes into masked patches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.errors import InputError
from pipeline.images.filters import high_pass, normalise
from pipeline.images.gaussian import blur_with_kernels, gaussian_blur, gaussian_kernel
from training.randomness.draws import sample_seeds, torch_seeds, view_number
from training.randomness.noise import gaussian_noise
from training.views.fills import (
    FILLS,
    UnmaskedView,
    blur_values,
    fill_named,
    mean_values,
    sample_noise,
)

BATCH, SIZE = 5, 32
ROUNDING = 1e-13  # sums of at most 31 x 31 float64 products of size 1


@pytest.fixture(scope="module")
def values(golden: Path) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v)[None] for k, v in np.load(golden / "fills.npz").items()}


def images(size: int = SIZE) -> Tensor:
    return torch.rand(BATCH, 3, size, size, generator=torch.Generator().manual_seed(3))


def mask(channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(BATCH, channels, SIZE, SIZE, generator=generator) < 0.4


def seeds() -> Tensor:
    return torch_seeds(sample_seeds(0, 0, np.arange(BATCH)))


def unmasked(
    prepared: Tensor, image: Tensor, view: str = "query", *, std: float = 0.18, first: int = 0
) -> UnmaskedView:
    """The views of samples `first` and on."""
    own, size = seeds()[first : first + len(image)], tuple(image.shape[1:])
    assert len(size) == 3
    return UnmaskedView(prepared, image, lambda: sample_noise(own, view=view, size=size, std=std))


def filled(
    name: str, where: Tensor, view: str = "query", std: float = 0.18
) -> tuple[Tensor, Tensor]:
    """The prepared views and the filled ones."""
    fill, image = FILLS[name], images()
    base = fill.prepare(image)
    return base, fill.apply(unmasked(base, image, view, std=std), where)


def test_mean_golden(values: dict[str, Tensor]) -> None:
    view = unmasked(values["normalised"], values["image01"])
    expected = values["mean"][..., None, None]
    torch.testing.assert_close(mean_values(view), expected, rtol=0, atol=ROUNDING)


def test_strong_blur_golden(values: dict[str, Tensor]) -> None:
    got = normalise(gaussian_blur(values["image01"], 31, 10.0))
    torch.testing.assert_close(got, values["strong_blur"], rtol=0, atol=ROUNDING)


def test_fills_at_224_have_the_papers_kernels() -> None:
    image = images(224)[:1]
    blurred = blur_values(unmasked(image, image))
    assert torch.equal(blurred, normalise(gaussian_blur(image, 31, 10.0)))
    filtered = FILLS["high_pass"].prepare(image)
    expected = high_pass(normalise(image), 11, 5.0)
    torch.testing.assert_close(filtered, expected, rtol=0, atol=3e-6)  # float32


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("view", ["query", "negative-key-0"])
def test_only_masked_pixels_change(name: str, view: str) -> None:
    where = mask(3 if FILLS[name].high_pass else 1)
    base, after = filled(name, where, view)
    assert after.dtype == base.dtype
    assert after.shape == base.shape
    where = where.expand_as(base)
    assert torch.equal(after[~where], base[~where])
    assert float((after[where] == base[where]).double().mean()) < 1e-3


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_is_filled_where_it_is_wanted(name: str, channels: int) -> None:
    """In new memory, in given one, and in the unmasked view's own: the same bits as by `where`."""
    fill, image, where = FILLS[name], images(), mask(channels)
    view = unmasked(fill.prepare(image), image)
    expected = torch.where(where, fill.values(view), view.prepared_BCHW)
    assert torch.equal(fill.apply(view, where), expected)
    out = torch.full_like(image, torch.nan)
    assert fill.apply(view, where, out=out) is out
    assert torch.equal(out, expected)
    given = torch.full_like(image, torch.nan)
    assert fill.prepare(image, out=given) is given
    assert torch.equal(given, view.prepared_BCHW)
    fill.apply(unmasked(given, image), where, out=given)
    assert torch.equal(given, expected)


@pytest.mark.parametrize("name", FILLS)
def test_views_are_blurred_on_the_way(name: str) -> None:
    fill, kernels = FILLS[name], gaussian_kernel(5, torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
    expected = blur_with_kernels(images(), kernels)
    blurred, view = fill.blur_and_prepare(images(), kernels)
    assert torch.equal(blurred, expected)
    torch.testing.assert_close(view, fill.prepare(expected), rtol=0, atol=3e-6)  # float32


@pytest.mark.parametrize("name", ["mean", "blur"])
def test_unmasked_views_are_normalised(name: str) -> None:
    assert torch.equal(FILLS[name].prepare(images()), normalise(images()))
    assert not FILLS[name].high_pass


def test_mean_is_that_of_the_whole_view() -> None:
    base, after = filled("mean", mask())
    for image in range(BATCH):
        where = mask()[image, 0]
        for channel in range(3):
            expected = float(base[image, channel].double().mean())
            assert after[image, channel][where].tolist() == pytest.approx(
                [expected] * int(where.sum()), abs=1e-6
            )


@pytest.mark.parametrize(
    ("view", "std"),
    [("query", 0.18), ("key", 0.18), ("negative-query-2", 0.14), ("exchanged", 0.3)],
)
def test_high_pass_fills_with_the_samples_own_noise(view: str, std: float) -> None:
    where = mask(3)
    _, after = filled("high_pass", where, view, std)
    noise = gaussian_noise(seeds(), view_number(view), (3, SIZE, SIZE)) * std
    assert torch.equal(after[where], noise[where])
    count = int(where.sum())
    assert float(after[where].std()) == pytest.approx(std, rel=4 / (2 * count) ** 0.5)


def test_noise_keeps_the_views_dtype() -> None:
    view = unmasked(images().double(), images())
    assert FILLS["high_pass"].apply(view, mask(3)).dtype == torch.float64


@pytest.mark.parametrize("name", FILLS)
def test_a_view_is_filled_the_same_in_any_batch(name: str) -> None:
    fill, image, where = FILLS[name], images(), mask(3)
    _, whole = filled(name, where)
    one = image[2:3]
    part = fill.apply(unmasked(fill.prepare(one), one, first=2), where[2:3])
    # A product of other shape may sum in another order.
    torch.testing.assert_close(part, whole[2:3], rtol=0, atol=1e-5)


def test_an_unknown_fill_lists_the_known_ones() -> None:
    assert fill_named("blur") is FILLS["blur"]
    with pytest.raises(InputError, match="unknown fill 'zero': choose from mean, blur, high_pass"):
        fill_named("zero")
