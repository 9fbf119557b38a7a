"""Noise per pixel: normal, the samples' own, frozen; and the same where only some is wanted."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.training.views.made import NEGATIVE_VIEW, QUERY_VIEW
from training.randomness.draws import Stream, random_bits, sample_seeds, torch_seeds
from training.randomness.noise import gaussian_noise

# Every test below uses fixed seeds, so it gives one answer for ever: the limit only says how odd
# that answer may be. Four standard errors (p about 6e-5).
LIMIT = 4.0


def seeds(count: int, *, seed: int = 0, epoch: int = 0) -> NDArray[np.uint64]:
    return sample_seeds(seed, epoch, np.arange(count, dtype=np.int64))


def test_noise_is_the_quantiles_that_those_bits_choose() -> None:
    bits = random_bits(seeds(5), NEGATIVE_VIEW, Stream.NOISE, 27)
    levels = np.stack([(bits >> np.uint64(16 * lane)) & np.uint64(0xFFFF) for lane in range(4)], -1)
    signed = (levels.astype(np.int64) + 32768) % 65536  # as two's complement counts them
    normal = NormalDist()
    expected = [
        [normal.inv_cdf((level + 0.5) / 65536) for level in row]
        for row in signed.reshape(5, 108)[:, :105].tolist()
    ]
    noise = gaussian_noise(torch_seeds(seeds(5)), NEGATIVE_VIEW, (3, 7, 5)).reshape(5, 105)
    np.testing.assert_allclose(noise.numpy(), expected, rtol=1e-6, atol=1e-7)  # float32


def test_noise_is_standard_normal() -> None:
    noise = gaussian_noise(torch_seeds(seeds(16)), QUERY_VIEW, (3, 64, 64)).double()
    count = noise.numel()
    assert abs(float(noise.mean())) < LIMIT / count**0.5
    assert abs(float(noise.std()) - 1.0) < LIMIT / (2 * count) ** 0.5
    # Kolmogorov and Smirnov's distance, which one sample in a thousand exceeds.
    shares = torch.special.ndtr(noise.flatten()).sort().values
    steps = torch.arange(count + 1) / count
    assert float((steps[1:] - shares).max()) < 1.95 / count**0.5
    assert float((shares - steps[:-1]).max()) < 1.95 / count**0.5
    # Four pixels share a hash: uncorrelated all the same, as channels are.
    flat = noise.flatten(1)
    halves = flat.reshape(len(flat), 2, -1)
    for a, b in ((flat[:, 1:], flat[:, :-1]), (halves[:, 0], halves[:, 1]), (flat[1:], flat[:-1])):
        assert abs(float((a * b).mean())) < LIMIT / a.numel() ** 0.5


def test_noise_is_the_same_in_any_batch_and_differs_between_views() -> None:
    batch = torch_seeds(seeds(6))
    noise = gaussian_noise(batch, QUERY_VIEW, (3, 5, 5))
    assert noise.shape == (6, 3, 5, 5)
    assert noise.dtype == torch.float32
    assert torch.equal(gaussian_noise(batch[[4, 2]], QUERY_VIEW, (3, 5, 5)), noise[[4, 2]])
    assert not torch.equal(gaussian_noise(batch, NEGATIVE_VIEW, (3, 5, 5)), noise)
    assert torch.equal(batch, torch_seeds(seeds(6))), "the seeds are left as they were"


def test_noise_frozen_values() -> None:
    noise = gaussian_noise(torch_seeds(seeds(2, seed=7, epoch=2)), NEGATIVE_VIEW, (1, 1, 3))
    expected = [1.0461615, 0.7300702, -0.4883670, -0.2934473, -0.0545497, -0.1685703]
    torch.testing.assert_close(noise.flatten(), torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "size", [(3, 16, 16), (3, 12, 12), (3, 7, 5), (1, 8, 8), (3, 224, 224), (3, 120, 120)]
)
@pytest.mark.parametrize(("channels", "share"), [(1, 0.0), (1, 0.05), (3, 0.05), (3, 1.0)])
def test_noise_that_is_needed_is_the_same(
    size: tuple[int, int, int], channels: int, share: float
) -> None:
    """Runs of 8, 16 and 32 pixels, some of them across rows, and sizes that have none."""
    batch, channels = torch_seeds(seeds(5)), min(channels, size[0])
    generator = torch.Generator().manual_seed(1)
    where = torch.rand(5, channels, *size[1:], generator=generator) < share
    whole = gaussian_noise(batch, NEGATIVE_VIEW, size)
    some = gaussian_noise(batch, NEGATIVE_VIEW, size, where_BCHW=where)
    assert some.shape == whole.shape
    assert some.dtype == whole.dtype
    where = where.expand_as(whole)
    assert torch.equal(some[where], whole[where])
    narrow = gaussian_noise(batch[3:], NEGATIVE_VIEW, size, std=0.14, where_BCHW=where[3:])
    assert torch.equal(narrow[where[3:]], whole[3:][where[3:]] * 0.14)
    assert torch.equal(batch, torch_seeds(seeds(5))), "the seeds are left as they were"
