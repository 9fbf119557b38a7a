"""Draws: uniform, independent, the same in numpy and torch, frozen."""

import itertools
import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.training.views.made import KEY_VIEW, NEGATIVE_VIEW, QUERY_VIEW
from training.randomness.draws import (
    Stream,
    block_bits,
    random_bits,
    sample_seeds,
    stream_keys,
    torch_random_bits,
    torch_seeds,
    uniforms,
    view_number,
)

COUNT = 4096
# Every test below uses fixed seeds, so it gives one answer for ever: the limit only says how odd
# that answer may be. Four standard errors (p about 6e-5).
LIMIT = 4.0


def distance_from(cumulative: NDArray[np.float64]) -> float:
    """Kolmogorov and Smirnov's distance, given the claimed distribution's F at each number."""
    expected: NDArray[np.float64] = np.sort(cumulative)
    steps: NDArray[np.float64] = np.arange(len(expected) + 1) / len(expected)
    return max(float(np.max(steps[1:] - expected)), float(np.max(expected - steps[:-1])))


def ks_limit(count: int) -> float:
    """The distance that one sample in a thousand exceeds (asymptotic)."""
    return 1.95 / math.sqrt(count)


def seeds(count: int, *, seed: int = 0, epoch: int = 0) -> NDArray[np.uint64]:
    return sample_seeds(seed, epoch, np.arange(count, dtype=np.int64))


def one(
    *, seed: int = 0, epoch: int = 0, view: int = 0, stream: Stream = Stream.CROP, counter: int = 0
) -> NDArray[np.float64]:
    """One number for each of COUNT samples."""
    return uniforms(seeds(COUNT, seed=seed, epoch=epoch), view, stream, counter + 1)[:, counter]


DRAWS = {
    "base": one(),
    "seed": one(seed=1),
    "epoch": one(epoch=1),
    "view": one(view=1),
    "stream": one(stream=Stream.FLIP),
    "counter": one(counter=1),
    "neighbour": np.roll(one(), 1),
}


@pytest.mark.parametrize("name", DRAWS)
def test_uniform_over_samples(name: str) -> None:
    assert distance_from(DRAWS[name]) < ks_limit(COUNT)


def test_uniform_over_counters() -> None:
    numbers = uniforms(seeds(3), 0, Stream.MASK_SCORES, COUNT)
    assert numbers.shape == (3, COUNT)
    assert numbers.dtype == np.float64
    assert float(numbers.min()) >= 0.0
    assert float(numbers.max()) < 1.0
    for row in numbers:
        assert distance_from(row) < ks_limit(COUNT)


@pytest.mark.parametrize(("a", "b"), itertools.combinations(DRAWS, 2))
def test_whatever_differs_the_numbers_are_uncorrelated(a: str, b: str) -> None:
    correlation = np.corrcoef(DRAWS[a], DRAWS[b])[0, 1]
    assert abs(correlation) < LIMIT / np.sqrt(COUNT)


def test_frozen_values() -> None:
    """These numbers decide every crop and mask: a change breaks the resuming of runs."""
    assert seeds(3, seed=7, epoch=2).tolist() == [
        10017077634703652582,
        12960263009586173188,
        16538227371362628070,
    ]
    got = uniforms(seeds(2, seed=7, epoch=2), KEY_VIEW, Stream.COLOUR, 2)
    assert got.tolist() == [
        [0.642288724865494, 0.7644630600553968],
        [0.4059411056329164, 0.5526442243066663],
    ]
    assert [int(stream) for stream in Stream] == list(range(21))


def test_the_numbers_of_views_are_frozen() -> None:
    assert [view_number(name) for name in ("query", "key")] == [0, 1]
    for index in (0, 1, 2, 17):
        assert view_number(f"negative-key-{index}") == 2 + 2 * index
        assert view_number(f"negative-query-{index}") == 3 + 2 * index
    others = ("exchanged", "global-2", "local-0", "negative-global-0", "negative-key", "Query", "")
    numbers = [view_number(name) for name in others]
    assert numbers == [2**31 + zlib.crc32(name.encode()) // 2 for name in others]
    assert numbers[0] == 3639336050
    assert len(set(numbers)) == len(others)


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**20), st.integers(0, 2**62))
def test_any_seed_will_do(seed: int, epoch: int, sample: int) -> None:
    ids = np.array([sample], dtype=np.int64)
    first = sample_seeds(seed, epoch, ids)
    assert first.dtype == np.uint64
    assert first == sample_seeds(seed + 2**64, epoch, ids)
    assert first != sample_seeds(seed + 1, epoch, ids)
    assert first != sample_seeds(seed, epoch + 1, ids)
    assert first != sample_seeds(seed, epoch, ids + 1)


def test_a_sample_draws_the_same_in_any_batch() -> None:
    """Each may have a view of its own."""
    views = np.array([QUERY_VIEW, KEY_VIEW, NEGATIVE_VIEW])
    together = uniforms(seeds(3), views, Stream.CROP, 5)
    for sample, view in enumerate(views.tolist()):
        alone = uniforms(seeds(3)[sample : sample + 1], view, Stream.CROP, 2)
        assert np.array_equal(together[sample : sample + 1, :2], alone)


@pytest.mark.parametrize("view", [QUERY_VIEW, KEY_VIEW, NEGATIVE_VIEW, view_number("exchanged")])
@pytest.mark.parametrize("stream", list(Stream))
def test_torch_hashes_the_same_bits_as_numpy(view: int, stream: Stream) -> None:
    batch = seeds(50)
    got = torch_random_bits(torch_seeds(batch), view, stream, 20)
    assert np.array_equal(got.numpy().view(np.uint64), random_bits(batch, view, stream, 20))


def test_blocks_of_counters_have_the_same_bits() -> None:
    keys = stream_keys(seeds(4), KEY_VIEW, Stream.NOISE)
    whole = random_bits(seeds(4), KEY_VIEW, Stream.NOISE, 9)
    sample, block = np.array([3, 0, 0, 2]), np.array([2, 0, 1, 1])
    expected = [whole[i, 3 * b : 3 * b + 3] for i, b in zip(sample, block, strict=True)]
    assert np.array_equal(block_bits(keys[sample], block, 3), expected)
