"""The format of a set's pixels, found in a first pass over all values of its images.

Shapes: H W pixels, C channels, X pixels of a sample, Q quantiles.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.images.pixel_format import (
    EIGHT_BIT,
    FLOATS,
    INTEGERS,
    RGB,
    PixelFormat,
    Range,
    Values,
    kind_of,
)

SAMPLE_SIDE, QUANTILES = 32, 1000
"""Rows and columns of an image, evenly spread, that quantiles are taken of; and their number."""
LEAST_STD = 1 / 256
"""Of a channel that does not vary."""
AUTO, PERCENTILE, LIKE = "auto", "percentile", "like"

Floats = NDArray[np.float64]


class ValueSample(NamedTuple):
    """The kind of an image, the extremes of each channel, and some of its pixels."""

    kind: str
    least_C: Floats
    greatest_C: Floats
    sample_XC: Values


def look_at(values: Values) -> ValueSample:
    """Look at all values of an image [H, W, C]; ImageError for one that cannot be used."""
    kind = kind_of(values)
    least, greatest = (end(values, axis=(0, 1)).astype(np.float64) for end in (np.min, np.max))
    rows, columns = (-(-side // SAMPLE_SIDE) for side in values.shape[:2])
    sample = values[::rows, ::columns].reshape(-1, values.shape[2])
    return ValueSample(kind, least, greatest, sample.copy())


class _Part(NamedTuple):
    """Values of images of one kind."""

    num_images: int
    least_C: Floats
    greatest_C: Floats
    quantiles_QC: Floats


@dataclass(frozen=True)
class SeenValues:
    """What was seen of some images; its size does not depend on their number.

    Attributes:
        num_plain: 8-bit images of three channels.
        parts: of the others, by kind and number of channels.
    """

    num_plain: int = 0
    parts: Mapping[tuple[str, int], _Part] = field(default_factory=dict)

    @classmethod
    def of(cls, samples: Sequence[ValueSample], num_plain: int = 0) -> Self:
        """Put the samples of images together."""
        groups: dict[tuple[str, int], list[ValueSample]] = {}
        for one in samples:
            groups.setdefault((one.kind, len(one.least_C)), []).append(one)
        at = (np.arange(QUANTILES) + 0.5) / QUANTILES
        parts = {
            key: _Part(
                len(group),
                np.min([one.least_C for one in group], axis=0),
                np.max([one.greatest_C for one in group], axis=0),
                np.quantile(np.concatenate([one.sample_XC for one in group]), at, axis=0),
            )
            for key, group in groups.items()
        }
        return cls(num_plain, parts)


def check_range(words: Sequence[str]) -> tuple[float, ...]:
    """The numbers of a `--range`; InputError for anything that is not understood."""
    wanted = f"range {' '.join(words)}: wanted {AUTO}, LOW HIGH, {PERCENTILE} P or {LIKE} SHARDS"
    if list(words) == [AUTO] or (len(words) == 2 and words[0] == LIKE):
        return ()
    is_percentile = len(words) == 2 and words[0] == PERCENTILE
    try:
        numbers = tuple(float(word) for word in words[is_percentile:])
    except ValueError:
        raise InputError(wanted) from None
    if is_percentile and not 50 < numbers[0] <= 100:
        raise InputError(f"{wanted}, with P above 50 and at most 100")
    fits = len(numbers) == 2 and all(map(isfinite, numbers)) and numbers[0] < numbers[-1]
    if not is_percentile and not fits:
        raise InputError(f"{wanted}, with LOW below HIGH")
    return numbers


def declared(
    seen: Sequence[SeenValues],
    rule: Sequence[str] = (AUTO,),
    *,
    bits: int = 8,
    channels: int | None = None,
) -> PixelFormat:
    """The format of a set, of whose images everything was seen.

    Most images decide on the number of channels if it is not given. `rule` is that of `--range`. By
    `auto` integers have the range from 0 to the least power of two above all of them (and likewise
    below 0), floats in each channel their own range. By `percentile P` each channel runs from the
    percentile 100 - P of its values to P, as far as `SAMPLE_SIDE` and `QUANTILES` can tell.
    """
    num_plain = sum(one.num_plain for one in seen)
    votes = Counter({RGB: num_plain})
    for one in seen:
        for (_, number), part in one.parts.items():
            votes[number] += part.num_images
    channels = channels or max(votes, key=lambda number: (votes[number], number))
    parts = {
        kind: [one.parts[kind, channels] for one in seen if (kind, channels) in one.parts]
        for kind in (EIGHT_BIT, INTEGERS, FLOATS)
    }
    ranges = {kind: _ranges(kind, some, rule) for kind, some in parts.items() if some}
    form = PixelFormat(
        channels=channels,
        bits=bits,
        integers=ranges.get(INTEGERS, ()),
        floats=ranges.get(FLOATS, ()),
    )
    if not ranges or (channels == RGB and num_plain):
        return form
    mean, std = _statistics(parts, ranges)
    return replace(form, mean=mean, std=std)


def _ranges(kind: str, parts: Sequence[_Part], rule: Sequence[str]) -> tuple[Range, ...]:
    """Low and high of each channel."""
    numbers = check_range(rule)
    least = np.min([part.least_C for part in parts], axis=0)
    greatest = np.max([part.greatest_C for part in parts], axis=0)
    if kind == EIGHT_BIT:
        return ((0.0, 255.0),) * len(least)
    if len(numbers) == 2:
        return ((numbers[0], numbers[1]),) * len(least)
    if numbers and numbers[0] < 100:
        share = numbers[0] / 100
        least, greatest = (_percentile(parts, at) for at in (1 - share, share))
    elif kind == INTEGERS and not numbers:
        low = -_power(-int(least.min()) - 1) if least.min() < 0 else 0.0
        return ((low, _power(max(int(greatest.max()), 0))),) * len(least)
    return tuple(zip(least.tolist(), greatest.tolist(), strict=True))


def _power(value: int) -> float:
    """The least power of two above a whole number of 0 or more."""
    return float(1 << value.bit_length())


def _percentile(parts: Sequence[_Part], share: float) -> Floats:
    """A quantile of each channel, [C], of all quantiles of the parts; every image counts alike."""
    values_XC = np.concatenate([part.quantiles_QC for part in parts])
    weights_X = np.repeat([float(part.num_images) for part in parts], QUANTILES)
    order_XC = np.argsort(values_XC, axis=0, kind="stable")
    sums_XC = np.cumsum(weights_X[order_XC], axis=0) / weights_X.sum()
    at_1C = np.minimum((sums_XC < share - 1e-9).sum(axis=0, keepdims=True), len(values_XC) - 1)
    return np.take_along_axis(values_XC, np.take_along_axis(order_XC, at_1C, 0), 0)[0]


def _statistics(
    parts: Mapping[str, Sequence[_Part]], ranges: Mapping[str, tuple[Range, ...]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1]; every image counts alike."""
    pixels, weights = [], []
    for kind, some in parts.items():
        for part in some:
            low_C, high_C = np.array(ranges[kind]).T
            spread_C = np.where(high_C > low_C, high_C - low_C, 1)
            pixels.append(np.clip((part.quantiles_QC - low_C) / spread_C, 0, 1))
            weights.append(np.full(QUANTILES, float(part.num_images)))
    pixels_XC, weights_X = np.concatenate(pixels), np.concatenate(weights)
    mean_C = np.average(pixels_XC, axis=0, weights=weights_X)
    variance_C = np.average((pixels_XC - mean_C) ** 2, axis=0, weights=weights_X)
    std_C = np.maximum(np.sqrt(variance_C), LEAST_STD)
    rounded = [tuple(round(value, 6) for value in found.tolist()) for found in (mean_C, std_C)]
    return rounded[0], rounded[1]
