"""The format of a set's pixels, found in a first pass over all values of its images.

Shapes: H W pixels, C channels, Q quantiles.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import NamedTuple

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

SAMPLE_SIDE, NUM_QUANTILES = 32, 1000
"""Rows and columns of an image, evenly spread, that quantiles are taken of; and their number."""
QUANTILES = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
LEAST_STD = 1 / 256
"""Of a channel that does not vary."""
AUTO, PERCENTILE, LIKE = "auto", "percentile", "like"

Floats = NDArray[np.float64]


class SeenValues(NamedTuple):
    """The values of some images of one kind and number of channels."""

    kind: str
    num_images: int
    least_C: Floats
    greatest_C: Floats
    quantiles_QC: Floats

    @property
    def channels(self) -> int:
        """C."""
        return len(self.least_C)


def look_at(values: Values) -> SeenValues:
    """Look at all values of an image [H, W, C]; ImageError for one that cannot be used."""
    kind = kind_of(values)
    least_C, greatest_C = (
        np.asarray(end(axis=(0, 1)), np.float64) for end in (values.min, values.max)
    )
    rows, columns = (-(-side // SAMPLE_SIDE) for side in values.shape[:2])
    sample_XC = values[::rows, ::columns].reshape(-1, values.shape[2]).astype(np.float64)
    quantiles_QC = np.quantile(sample_XC, QUANTILES, axis=0)
    return SeenValues(kind, 1, least_C, greatest_C, quantiles_QC)


def plain_images(num: int) -> SeenValues:
    """8-bit images of three channels, of which nothing needs to be known."""
    quantiles_QC = np.zeros((NUM_QUANTILES, RGB))
    return SeenValues(EIGHT_BIT, num, np.zeros(RGB), np.full(RGB, 255.0), quantiles_QC)


def merged(seen: Sequence[SeenValues]) -> list[SeenValues]:
    """The same images by kind and channels; in the quantiles every image counts alike."""
    groups: dict[tuple[str, int], list[SeenValues]] = {}
    for one in seen:
        groups.setdefault((one.kind, one.channels), []).append(one)
    return [
        SeenValues(
            kind,
            sum(one.num_images for one in group),
            np.min([one.least_C for one in group], axis=0),
            np.max([one.greatest_C for one in group], axis=0),
            np.quantile(
                np.concatenate([one.quantiles_QC for one in group]),
                QUANTILES,
                axis=0,
                weights=np.repeat([one.num_images for one in group], NUM_QUANTILES),
                method="inverted_cdf",
            ),
        )
        for (kind, _), group in groups.items()
    ]


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
    votes, seen = Counter({RGB: 0}), [one for one in seen if one.num_images]
    for one in seen:
        votes[one.channels] += one.num_images
    channels = channels or max(votes, key=lambda number: (votes[number], number))
    parts = {one.kind: one for one in merged(seen) if one.channels == channels}
    ranges = {kind: _range(part, check_range(rule), rule) for kind, part in parts.items()}
    form = PixelFormat(
        channels=channels,
        bits=bits,
        integers=ranges.get(INTEGERS, ()),
        floats=ranges.get(FLOATS, ()),
    )
    if channels == RGB and (EIGHT_BIT in parts or not parts):
        return form
    pixels, weights = [], []
    for kind, part in parts.items():
        low_C, high_C = np.array(ranges[kind]).T
        pixels.append((part.quantiles_QC - low_C) / np.where(high_C > low_C, high_C - low_C, 1))
        weights.append(np.full(NUM_QUANTILES, part.num_images))
    pixels_XC, weights_X = np.concatenate(pixels).clip(0, 1), np.concatenate(weights)
    mean_C = np.average(pixels_XC, axis=0, weights=weights_X)
    variance_C = np.average((pixels_XC - mean_C) ** 2, axis=0, weights=weights_X)
    mean, std = (
        tuple(round(value, 6) for value in found.tolist())
        for found in (mean_C, np.maximum(np.sqrt(variance_C), LEAST_STD))
    )
    return replace(form, mean=mean, std=std)


def _range(seen: SeenValues, numbers: Sequence[float], rule: Sequence[str]) -> tuple[Range, ...]:
    """Low and high of each channel."""
    least_C, greatest_C = seen.least_C, seen.greatest_C
    if seen.kind == EIGHT_BIT:
        return ((0.0, 255.0),) * seen.channels
    if len(numbers) == 2:
        return ((numbers[0], numbers[1]),) * seen.channels
    if rule[0] == PERCENTILE and numbers[0] < 100:
        share = numbers[0] / 100
        least_C, greatest_C = np.quantile(seen.quantiles_QC, [1 - share, share], axis=0)
    elif rule[0] == AUTO and seen.kind == INTEGERS:
        low = -_power(-int(least_C.min()) - 1) if least_C.min() < 0 else 0.0
        return ((low, _power(max(int(greatest_C.max()), 0))),) * seen.channels
    return tuple(zip(least_C.tolist(), greatest_C.tolist(), strict=True))


def _power(value: int) -> float:
    """The least power of two above a whole number of 0 or more."""
    return float(1 << value.bit_length())
