"""Everything random about a sample, as a pure function of who it is.

A draw is a hash of (seed, epoch, sample, view, stream, counter), so that it can be made again at
any time, on any rank, in any batch. The hash is the finaliser of splitmix64 (Steele, Lea and Flood,
"Fast Splittable Pseudorandom Number Generators", OOPSLA 2014), in numpy for the few numbers per
sample that a loader draws and in torch for the noise per pixel (`noise`); both give the same 64
bits.

Shapes: `B` batch.
"""

import enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Views = int | NDArray[np.int64]
"""The number of the view that all samples are drawn for, or of each sample's, `[B]`."""

_GAMMA = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
_STEP = np.uint64(_GAMMA)
_WORD = 1 << 64


class Stream(enum.IntEnum):
    """What a draw is for. The numbers are part of every result: append, never renumber."""

    CROP = 0
    FLIP = 1
    COLOUR = 2
    BLUR = 3
    MASK_RATIO = 4
    MASK_SCORES = 5
    MASK_SHAPE = 6
    MASK_BOX = 7
    NOISE = 8
    MASK_APPLY = 9
    SPATIAL_TILE = 10
    CHANNEL_TILE = 11
    FOCAL_TILE = 12
    MASK_COUNT = 13
    EXCHANGE_APPLY = 14
    EXCHANGE_PATCH = 15


class View(enum.IntEnum):
    """Which view of a sample. A hard negative has its source's crop and colours, its own mask.

    `NEGATIVE` is the first hard negative cut from the key; `negative_view` numbers all of them.
    """

    QUERY = 0
    KEY = 1
    NEGATIVE = 2


def negative_view(source: View, index: int) -> int:
    """Number of the view that is the `index`-th hard negative cut from the key or the query.

    All of them differ, so that each has draws of its own; the key's first is `View.NEGATIVE`.
    """
    assert source in (View.QUERY, View.KEY), source
    assert index >= 0, index
    return View.NEGATIVE + 2 * index + (1 if source == View.QUERY else 0)


def negative_source(view: int) -> View:
    """The view that a hard negative is cut from, by its number."""
    assert view >= View.NEGATIVE, view
    return View.QUERY if (view - View.NEGATIVE) % 2 else View.KEY


def _mix(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: a bijection of 64-bit words that spreads every bit.

    In the memory of the words, which the caller gives up.
    """
    shifted = np.empty_like(word)
    for shift, factor in _MIX:
        word ^= np.right_shift(word, np.uint64(shift), out=shifted)
        word *= np.uint64(factor)
    word ^= np.right_shift(word, np.uint64(_LAST_SHIFT), out=shifted)
    return word


def _fold(word: NDArray[np.uint64], value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Take one more value into a hash; the order of the values counts."""
    return _mix(word ^ _mix(value + _STEP))


def _word(value: int) -> NDArray[np.uint64]:
    # An array, not a scalar: numpy warns when scalars wrap around, which is what a hash does.
    return np.array([value % _WORD], dtype=np.uint64)


def _purpose(view: Views, stream: Stream) -> NDArray[np.uint64]:
    views = np.atleast_1d(np.asarray(view, dtype=np.uint64))
    return (views << np.uint64(32)) | np.uint64(stream)


def sample_seeds(seed: int, epoch: int, sample_ids_B: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One 64-bit seed per sample and epoch: all other draws start from it.

    Args:
        seed: seed of the run, any integer (taken modulo 2^64).
        epoch: number of the epoch.
        sample_ids_B: row numbers of the samples, int64.

    Returns:
        Seeds, uint64, `[B]`.
    """
    ids_B = np.asarray(sample_ids_B, dtype=np.int64).view(np.uint64)
    return _fold(_fold(_fold(_word(0), _word(seed)), _word(epoch)), ids_B)


def random_bits(
    seeds_B: NDArray[np.uint64], view: Views, stream: Stream, count: int
) -> NDArray[np.uint64]:
    """64 random bits per sample and counter; the arguments are those of `uniforms`.

    Returns:
        Hashes, uint64, `[B, count]`.
    """
    first_B = np.zeros(len(seeds_B), dtype=np.int64)
    return block_bits(stream_keys(seeds_B, view, stream), first_B, count)


def stream_keys(seeds_B: NDArray[np.uint64], view: Views, stream: Stream) -> NDArray[np.uint64]:
    """One key per sample, from which `block_bits` makes the hashes of a view and a stream."""
    return _fold(seeds_B, _purpose(view, stream))


def block_bits(
    key_N: NDArray[np.uint64], block_N: NDArray[np.int64], length: int
) -> NDArray[np.uint64]:
    """The hashes of whole blocks of counters: `random_bits` where not all are wanted.

    Args:
        key_N: from `stream_keys`.
        block_N: which block of each key's counters, from 0 on.
        length: counters in a block.

    Returns:
        The hashes of counters `block * length` up to `(block + 1) * length`, uint64, `[N, length]`.
    """
    first_N = key_N + (block_N.view(np.uint64) * np.uint64(length) + np.uint64(1)) * _STEP
    return _mix(first_N[:, None] + np.arange(length, dtype=np.uint64) * _STEP)


def uniforms(
    seeds_B: NDArray[np.uint64], view: Views, stream: Stream, count: int
) -> NDArray[np.float64]:
    """Uniform numbers for each sample; the first ones do not depend on how many are asked for.

    Args:
        seeds_B: what `sample_seeds` returned.
        view: number of the view (`View`), or of each sample's.
        stream: what the numbers are for; streams are independent of each other.
        count: how many numbers per sample.

    Returns:
        Multiples of 2^-53 in [0, 1), float64, `[B, count]`.
    """
    bits = random_bits(seeds_B, view, stream, count)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def torch_seeds(seeds_B: NDArray[np.uint64]) -> Tensor:
    """The same 64 bits as an int64 tensor, which is what torch can multiply."""
    return torch.from_numpy(np.ascontiguousarray(seeds_B).view(np.int64))


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value


def _mix_in_place(word: Tensor) -> Tensor:
    """`_mix` on an int64 tensor that the caller gives up; products wrap around."""
    for shift, factor in (*_MIX, (_LAST_SHIFT, 1)):
        # torch shifts int64 arithmetically: the copies of the sign are masked off.
        word.bitwise_xor_((word >> shift).bitwise_and_((1 << (64 - shift)) - 1))
        if factor != 1:
            word.mul_(_signed(factor))
    return word


def torch_random_bits(seeds_B: Tensor, view: int, stream: Stream, count: int) -> Tensor:
    """`random_bits`, bit for bit, on the seeds' device.

    Args:
        seeds_B: the samples' seeds, int64 (`torch_seeds`).
        view: number of the view (`View`).
        stream: what the bits are for.
        count: how many words per sample.

    Returns:
        Hashes, int64, `[B, count]`.
    """
    purpose = int(_mix(_purpose(view, stream) + _STEP)[0])
    key_B = _mix_in_place(seeds_B ^ _signed(purpose))
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=seeds_B.device)
    return _mix_in_place(key_B[:, None] + counter * _signed(_GAMMA))
