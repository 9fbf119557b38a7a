"""Gaussian noise per pixel: hashes (`draws`) turned into normal numbers.

Shapes: `B` batch, `C` channels, `H W` pixels, `N` runs of pixels.
"""

import math
from functools import lru_cache, reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.randomness.draws import Stream, block_bits, stream_keys, torch_random_bits

NORMALS_PER_WORD, NORMAL_LEVELS = 4, 1 << 16
"""Pixels per hash, and how many values a pixel's noise can have."""
SHORTEST_RUN, LONGEST_RUN = 8, 32
"""Pixels whose noise is made or skipped together on a CPU: at least as many as an int64 has bytes,
at most the width of a patch of the paper's 7 x 7 at 224 px."""


def gaussian_noise(
    seeds_B: Tensor,
    view: int,
    size: tuple[int, int, int],
    *,
    std: float = 1.0,
    stream: Stream = Stream.NOISE,
    where_BCHW: Tensor | None = None,
) -> Tensor:
    """Normal noise per pixel, a hash of (sample seed, view, channel, pixel).

    Every 16 bits of a hash choose one of 2^16 quantiles of the normal distribution: four pixels per
    hash, at most 4.3 standard deviations from 0.

    Args:
        seeds_B: the samples' seeds (`torch_seeds`), on the device that the noise is for.
        view: number of the view (`view_number`).
        size: (C, H, W) of one image.
        std: standard deviation of the noise.
        stream: what the noise is for.
        where_BCHW: bool, `[B, C or 1, H, W]`: the pixels that are needed. On a CPU the others may
            hold anything, which saves half of the time or more. None: all.

    Returns:
        Noise of mean 0, float32, `[B, C, H, W]`. The same for a sample in any batch, and on every
        device up to the last bit of a quantile.
    """
    values = math.prod(size)
    if where_BCHW is not None and seeds_B.device.type == "cpu" and values % SHORTEST_RUN == 0:
        key_B = stream_keys(seeds_B.numpy().view(np.uint64), view, stream)
        return _noise_where(key_B, where_BCHW.expand(-1, *size), std)
    bits = torch_random_bits(seeds_B, view, stream, -(-values // NORMALS_PER_WORD))
    return _normals(bits, std).flatten(1)[:, :values].reshape(-1, *size)


def _normal_table(device: torch.device) -> Tensor:
    """The standard normal's quantiles in the middle of 2^16 equal shares, float32."""
    # Made on the device, which takes microseconds: a copy from the CPU would wait.
    shares = torch.arange(NORMAL_LEVELS, dtype=torch.float64, device=device).add_(0.5)
    table: Tensor = torch.special.ndtri(shares.div_(NORMAL_LEVELS)).float()
    return table


@lru_cache(maxsize=8)
def _cpu_table(std: float) -> NDArray[np.float32]:
    """The quantiles times `std`, indexed by the unsigned 16 bits of a two's complement number."""
    half = torch.roll(_normal_table(torch.device("cpu")), NORMAL_LEVELS // 2)
    table: NDArray[np.float32] = half.mul_(std).numpy()
    return table


def _normals(bits: Tensor, std: float) -> Tensor:
    """Four normals of each word, int64 `[...]` to float32 `[..., 4]`, from its lowest bits up."""
    if bits.device.type == "cpu":  # the 16 bits are the index: no widening, no shift
        levels = bits.numpy().view(np.uint16).reshape(*bits.shape, NORMALS_PER_WORD)
        return torch.from_numpy(_cpu_table(std).take(levels))
    wide = bits.view(torch.int16).to(torch.int32).add_(NORMAL_LEVELS // 2)
    normals = _normal_table(bits.device).index_select(0, wide.flatten())
    return normals.view(*bits.shape, NORMALS_PER_WORD).mul_(std)


def _noise_where(key_B: NDArray[np.uint64], where_BCHW: Tensor, std: float) -> Tensor:
    """Make the noise of the runs of pixels of which at least one is needed."""
    noise_BCHW = torch.empty(where_BCHW.shape)
    values, width = where_BCHW[0].numel(), where_BCHW.shape[-1]
    length = LONGEST_RUN
    while length > SHORTEST_RUN and (7 * length > width or values % length):
        length //= 2
    # The bytes of a run as a few int64: all are 0 where no pixel is needed.
    needed = where_BCHW.contiguous().flatten().numpy().view(np.int64).reshape(-1, length // 8)
    run_N = np.flatnonzero(reduce(np.bitwise_or, needed.T) != 0)
    if len(run_N) == 0:
        return noise_BCHW
    image_N = run_N // (values // length)
    block_N = run_N - image_N * (values // length)  # np.divmod takes several times as long
    bits_NW = block_bits(key_B[image_N], block_N, length // NORMALS_PER_WORD)
    normals = _normals(torch.from_numpy(bits_NW.view(np.int64)), std).numpy()
    run = np.dtype((np.void, length * normals.itemsize))  # copies the numbers of a run together
    noise_BCHW.numpy().reshape(-1).view(run)[run_N] = normals.reshape(-1).view(run)
    return noise_BCHW
