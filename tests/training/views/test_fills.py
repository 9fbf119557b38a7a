"""What goes into masked patches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.errors import InputError
from pipeline.images.filters import (
    blur_with_kernels,
    gaussian_blur,
    gaussian_kernel,
    high_pass,
    normalise,
)
from pipeline.images.pixel_format import IMAGENET, Normalisation
from training.config.pretrain import PretrainConfig
from training.evaluate.config import DiagnosticsConfig
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
from training.views.settings import FILL_NAMES

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


def unmasked(
    prepared: Tensor, image: Tensor, view: str = "query", *, std: float = 0.18, first: int = 0
) -> UnmaskedView:
    """The views of samples `first` and on."""
    seeds = torch_seeds(sample_seeds(0, 0, np.arange(BATCH)))[first : first + len(image)]
    size = (3, image.shape[2], image.shape[3])
    return UnmaskedView(prepared, image, lambda: sample_noise(seeds, view=view, size=size, std=std))


def test_settings_and_help_name_every_fill() -> None:
    assert tuple(FILLS) == FILL_NAMES
    for config in (PretrainConfig, DiagnosticsConfig):
        assert all(name in str(config.__doc__) for name in FILLS)


def test_goldens(values: dict[str, Tensor]) -> None:
    view = unmasked(values["normalised"], values["image01"])
    for got, expected in (
        (mean_values(view), values["mean"][..., None, None]),
        (normalise(gaussian_blur(values["image01"], 31, 10.0)), values["strong_blur"]),
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=ROUNDING)


def test_fills_at_224_have_the_papers_kernels() -> None:
    image = images(224)[:1]
    blurred = blur_values(unmasked(image, image))
    assert torch.equal(blurred, normalise(gaussian_blur(image, 31, 10.0)))
    filtered = FILLS["high_pass"].prepare(image)
    expected = high_pass(normalise(image), 11, 5.0)
    torch.testing.assert_close(filtered, expected, rtol=0, atol=3e-6)  # float32


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("channels", [1, 3])
def test_only_masked_pixels_are_filled(name: str, channels: int) -> None:
    """In new memory, in given one, and in the unmasked view's own: the same bits as by `where`."""
    fill, image, where = FILLS[name], images(), mask(channels)
    view = unmasked(fill.prepare(image), image)
    expected = torch.where(where, fill.values(view), view.prepared_BCHW)
    after = fill.apply(view, where)
    assert torch.equal(after, expected)
    same = after == view.prepared_BCHW
    assert float(same[where.expand_as(same)].double().mean()) < 1e-3
    out = torch.full_like(image, torch.nan)
    assert fill.apply(view, where, out=out) is out
    assert torch.equal(out, expected)
    given = torch.full_like(image, torch.nan)
    assert fill.prepare(image, out=given) is given
    assert torch.equal(given, view.prepared_BCHW)
    fill.apply(unmasked(given, image), where, out=given)
    assert torch.equal(given, expected)
    one = image[2:3]
    alone = fill.apply(unmasked(fill.prepare(one), one, first=2), where[2:3])
    # A product of other shape may sum in another order.
    torch.testing.assert_close(alone, expected[2:3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FILLS)
def test_views_are_blurred_and_prepared(name: str) -> None:
    fill, kernels = FILLS[name], gaussian_kernel(5, torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
    expected = blur_with_kernels(images(), kernels)
    blurred, view = fill.blur_and_prepare(images(), kernels)
    assert torch.equal(blurred, expected)
    torch.testing.assert_close(view, fill.prepare(expected), rtol=0, atol=3e-6)  # float32
    assert torch.equal(fill.prepare(images()), normalise(images())) != fill.high_pass


def test_mean_is_that_of_the_whole_view_per_channel() -> None:
    view = unmasked(normalise(images()), images())
    after = FILLS["mean"].apply(view, torch.ones(BATCH, 1, SIZE, SIZE, dtype=torch.bool))
    expected = view.prepared_BCHW.double().mean(dim=(2, 3), keepdim=True).expand_as(after)
    torch.testing.assert_close(after.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("view", "std"),
    [("query", 0.18), ("key", 0.18), ("negative-query-2", 0.14), ("exchanged", 0.3)],
)
def test_high_pass_fills_with_the_samples_own_noise(view: str, std: float) -> None:
    where, fill, image = mask(3), FILLS["high_pass"], images()
    after = fill.apply(unmasked(fill.prepare(image), image, view, std=std), where)
    seeds = torch_seeds(sample_seeds(0, 0, np.arange(BATCH)))
    noise = gaussian_noise(seeds, view_number(view), (3, SIZE, SIZE)) * std
    assert torch.equal(after[where], noise[where])
    count = int(where.sum())
    assert float(after[where].std()) == pytest.approx(std, rel=4 / (2 * count) ** 0.5)
    assert fill.apply(unmasked(image.double(), image), where).dtype == torch.float64


def test_an_unknown_fill_lists_the_known_ones() -> None:
    assert fill_named("blur") is FILLS["blur"]
    with pytest.raises(InputError, match="unknown fill 'zero': choose from mean, blur, high_pass"):
        fill_named("zero")


@pytest.mark.parametrize("name", FILLS)
def test_a_set_of_its_own_statistics_is_normalised_by_them(name: str) -> None:
    """The encoder sees (x - mean) / std, filled in the same units."""
    fill, image, where = FILLS[name], images(), mask()
    own = Normalisation((0.2, 0.5, 0.7), (0.5, 0.1, 0.25))
    assert fill.of_set(IMAGENET) is fill
    mean, std = (torch.tensor(values)[:, None, None] for values in own)
    usual_mean, usual_std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    # What ImageNet's normalisation makes of it is what the own one makes of the image.
    twin = (image - mean) / std * usual_std + usual_mean
    ours = fill.of_set(own)
    view = unmasked(ours.prepare(image), image)._replace(normalisation=own)
    expected = unmasked(fill.prepare(twin), twin)
    torch.testing.assert_close(view.prepared_BCHW, expected.prepared_BCHW, rtol=0, atol=2e-5)
    got = ours.apply(view, where)
    torch.testing.assert_close(got, fill.apply(expected, where), rtol=0, atol=2e-5)
    blur = torch.zeros(BATCH, 1) + 1
    _, prepared = ours.blur_and_prepare(image.clone(), blur)
    torch.testing.assert_close(prepared, view.prepared_BCHW, rtol=0, atol=2e-5)
