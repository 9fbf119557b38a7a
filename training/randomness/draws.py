"""Random numbers of a sample as a pure function of (seed, epoch, sample, view, stream, counter).

A number can be drawn again at any time, on any rank, in any batch. The hash is the finaliser of
splitmix64 (Steele, Lea and Flood, OOPSLA 2014). numpy draws the few numbers per sample that the
loader needs, torch the noise per pixel (`noise`); both give the same 64 bits.

Shapes: `B` batch.
"""

import enum
import re
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Views = int | NDArray[np.int64]
"""Number of the view of all samples, or of each sample, `[B]`."""

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
    MATCHED_PATCH = 16
    CROP_AGAIN = 17
    LEARNED_APPLY = 18
    LEARNED_SLOT = 19
    SELECTION = 20


QUERY, KEY = "query", "key"
_NEGATIVE = re.compile(r"negative-(query|key)-(\d+)")


def view_number(name: str) -> int:
    """The number of a view's name in every hash.

    `query` is 0, `key` 1, `negative-key-I` 2 + 2 I and `negative-query-I` 3 + 2 I; other names have
    31 bits of their CRC-32. The numbers are part of every result: never change them.
    """
    if name in (QUERY, KEY):
        return int(name == KEY)
    if found := _NEGATIVE.fullmatch(name):
        return 2 + 2 * int(found[2]) + int(found[1] == QUERY)
    return (1 << 31) | (zlib.crc32(name.encode()) >> 1)


def view_group(name: str) -> str:
    """The name under which several views are logged: `negative` of `negative-key-0`."""
    return name.partition("-")[0]


def _mix(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64, a bijection of 64-bit words; overwrites its argument."""
    shifted = np.empty_like(word)
    for shift, factor in _MIX:
        word ^= np.right_shift(word, np.uint64(shift), out=shifted)
        word *= np.uint64(factor)
    word ^= np.right_shift(word, np.uint64(_LAST_SHIFT), out=shifted)
    return word


def _fold(word: NDArray[np.uint64], value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Add one more value to a hash; the order of the values counts."""
    return _mix(word ^ _mix(value + _STEP))


def _word(value: int) -> NDArray[np.uint64]:
    # An array, not a scalar: numpy warns when scalars wrap around, which is what a hash does.
    return np.array([value % _WORD], dtype=np.uint64)


def _purpose(view: Views, stream: Stream) -> NDArray[np.uint64]:
    views = np.atleast_1d(np.asarray(view, dtype=np.uint64))
    return (views << np.uint64(32)) | np.uint64(stream)


def sample_seeds(
    seed: int, epoch: int | NDArray[np.int64], sample_ids_B: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """One 64-bit seed per sample and epoch, from which all its other draws follow.

    The run's seed is any integer (taken modulo 2^64); the samples are row numbers. The epoch is the
    same for all samples, or each has its own, `[B]`.
    """
    ids_B = np.asarray(sample_ids_B, dtype=np.int64).view(np.uint64)
    epochs = epoch.view(np.uint64) if isinstance(epoch, np.ndarray) else _word(epoch)
    return _fold(_fold(_fold(_word(0), _word(seed)), epochs), ids_B)


def stream_keys(seeds_B: NDArray[np.uint64], view: Views, stream: Stream) -> NDArray[np.uint64]:
    """One key per sample, from which `block_bits` makes the hashes of a view and a stream."""
    return _fold(seeds_B, _purpose(view, stream))


def block_bits(
    key_N: NDArray[np.uint64], block_N: NDArray[np.int64], length: int
) -> NDArray[np.uint64]:
    """The hashes of one block of counters per key (of `stream_keys`), uint64 `[N, length]`.

    Block b has the counters `b * length` up to `(b + 1) * length`.
    """
    first_N = key_N + (block_N.view(np.uint64) * np.uint64(length) + np.uint64(1)) * _STEP
    return _mix(first_N[:, None] + np.arange(length, dtype=np.uint64) * _STEP)


def random_bits(
    seeds_B: NDArray[np.uint64], view: Views, stream: Stream, count: int
) -> NDArray[np.uint64]:
    """64 random bits per sample and counter, uint64 `[B, count]`; arguments as in `uniforms`."""
    first_B = np.zeros(len(seeds_B), dtype=np.int64)
    return block_bits(stream_keys(seeds_B, view, stream), first_B, count)


def uniforms(
    seeds_B: NDArray[np.uint64], view: Views, stream: Stream, count: int
) -> NDArray[np.float64]:
    """`count` uniform numbers for each sample; the first ones do not depend on `count`.

    `view` is the number of the view (`view_number`), or of each sample's. Streams are independent
    of each other. Returns multiples of 2^-53 in [0, 1), `[B, count]`.
    """
    bits = random_bits(seeds_B, view, stream, count)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def torch_seeds(seeds_B: NDArray[np.uint64]) -> Tensor:
    """The bits of the seeds as an int64 tensor: torch cannot multiply uint64."""
    return torch.from_numpy(np.ascontiguousarray(seeds_B).view(np.int64))


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value


def _mix_in_place(word: Tensor) -> Tensor:
    """`_mix` of an int64 tensor; products wrap around."""
    for shift, factor in (*_MIX, (_LAST_SHIFT, 1)):
        # torch shifts int64 arithmetically: the copies of the sign are masked off.
        word.bitwise_xor_((word >> shift).bitwise_and_((1 << (64 - shift)) - 1))
        if factor != 1:
            word.mul_(_signed(factor))
    return word


def torch_random_bits(seeds_B: Tensor, view: int, stream: Stream, count: int) -> Tensor:
    """`random_bits`, bit for bit, int64 on the device of the seeds (`torch_seeds`)."""
    purpose = int(_mix(_purpose(view, stream) + _STEP)[0])
    key_B = _mix_in_place(seeds_B ^ _signed(purpose))
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=seeds_B.device)
    return _mix_in_place(key_B[:, None] + counter * _signed(_GAMMA))
