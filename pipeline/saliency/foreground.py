"""Mark the foreground patches of a saliency grid, for the manifest and for training.

Shapes: `G` grid side, `N` = G * G patches.
"""

import math
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError

Rule = Literal["std", "otsu"]
RULES: tuple[Rule, ...] = get_args(Rule)
PAPER_THRESHOLD = -0.6
"""In standard deviations (arXiv 2309.12757, section 3.1)."""
FLAT_STD = 2e-3
"""Spread under which a map in [0, 1] says nothing: half a level of 8 bits is 1.96e-3, the largest
standard deviation that values one level apart can have, so rounding alone stays below it."""

GRID_SIDE = 7
"""Patches along a side of a whole image, in the manifest."""

Array = TypeVar("Array")


def foreground(saliency: Array, *, rule: Rule = "std", threshold: float = PAPER_THRESHOLD) -> Array:
    """Mark the foreground patches of each grid by its own values.

    ``std`` marks `saliency >= mean + threshold * std` with the population standard deviation, as
    the paper does. ``otsu`` splits the N values where the variance between the two classes is
    greatest (Otsu, "A threshold selection method from gray-level histograms", 1979) and marks the
    upper class. A grid without spread is all foreground under both: rounding must not decide it.

    Args:
        saliency: per patch, float in [0, 1], [..., G, G]; an array, or a tensor on any device.
        rule: ``std`` or ``otsu``.
        threshold: of ``std``, in standard deviations.

    Returns:
        True where a patch is foreground, bool, same shape and kind.
    """
    values: Any = saliency
    # float64: in float32 the mean of equal values may land above them.
    values = values.astype(np.float64) if isinstance(values, np.ndarray) else values.double()
    flat = values.reshape(*values.shape[:-2], -1)
    mean = flat.mean(-1)[..., None]
    std = ((flat - mean) ** 2).mean(-1)[..., None] ** 0.5
    least = _otsu(flat)[..., None] if rule == "otsu" else mean + threshold * std
    marked: Array = (values >= least[..., None]) | (std < FLAT_STD)[..., None]
    return marked


def separability(saliency: Array) -> Array:
    """How clearly the foreground of each grid stands out under Otsu's rule.

    It is the variance between the two classes, as a share of the whole (Otsu's criterion eta): 1
    where a grid has two values, 0 where it has no spread. About 0.75 is that of values spread
    evenly. In images with masks by people the foreground fits the object the better, the higher it
    is (README.md, "Clear maps").

    Args:
        saliency: as of `foreground`.

    Returns:
        float64 in [0, 1], [...].
    """
    values: Any = saliency
    values = values.astype(np.float64) if isinstance(values, np.ndarray) else values.double()
    flat = values.reshape(*values.shape[:-2], -1)
    count = flat.shape[-1]
    squares = ((flat - flat.mean(-1)[..., None]) ** 2).sum(-1)
    found: Array = squares * 0
    if count > 1:
        _, spread = _splits(flat)
        best = spread.max(-1) if isinstance(spread, np.ndarray) else spread.amax(-1)
        is_flat = squares < count * FLAT_STD**2
        found = best * ~is_flat / (count * (squares + is_flat))
    return found


def _otsu(values: Any) -> Any:  # noqa: ANN401  (an array or a tensor)
    """The least value of the upper class, [...], of values [..., N]."""
    if values.shape[-1] == 1:
        return values[..., 0]
    rising, spread = _splits(values)
    best = spread.argmax(-1)[..., None] + 1
    if isinstance(values, np.ndarray):
        return np.take_along_axis(rising, best, axis=-1)[..., 0]
    return rising.gather(-1, best)[..., 0]


def _splits(values: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Values [..., N] in order, and N^2 times the variance between the k lowest and the others.

    k = 1 ... N - 1; 0 where that would part equal values.
    """
    count = values.shape[-1]
    by_numpy = isinstance(values, np.ndarray)
    rising: Any = np.sort(values, axis=-1) if by_numpy else values.sort(dim=-1).values
    below = rising.cumsum(-1)  # sum of the k lowest values, k = 1 ... N
    lower = below[..., :-1]
    sizes = (lower * 0 + 1).cumsum(-1)  # 1 ... N - 1, made where the values are
    spread = (count * lower - sizes * below[..., -1:]) ** 2 / (sizes * (count - sizes))
    return rising, spread * (rising[..., 1:] > rising[..., :-1])


def map_foreground(
    maps_BPP: NDArray[np.uint8], *, rule: Rule, threshold: float
) -> NDArray[np.bool_]:
    """`foreground` of whole stored maps, bool [B, P, P]; Otsu's rule from their histograms."""
    if rule != "otsu":
        return np.asarray(foreground(maps_BPP / 255, rule=rule, threshold=threshold), np.bool_)
    levels_BN = maps_BPP.reshape(len(maps_BPP), -1).astype(np.int64)
    size, level, of_map_B1 = levels_BN.shape[1], np.arange(256), 256 * np.arange(len(maps_BPP))
    bins = np.bincount((levels_BN + of_map_B1[:, None]).ravel(), minlength=256 * len(maps_BPP))
    counts_BL = bins.reshape(-1, 256)
    lower_BL, sums_BL = counts_BL.cumsum(axis=1), (counts_BL * level).cumsum(axis=1)
    # As in `_otsu`; 0 where one class is empty.
    spread_BL = (size * sums_BL - lower_BL * sums_BL[:, -1:]).astype(np.float64) ** 2
    spread_BL /= np.maximum(lower_BL * (size - lower_BL), 1)
    variance_B = size * (counts_BL @ level**2) - sums_BL[:, -1] ** 2
    is_flat_B = variance_B < (FLAT_STD * 255 * size) ** 2
    least_B = np.where(is_flat_B, 0, spread_BL.argmax(axis=1) + 1)
    return (levels_BN >= least_B[:, None]).reshape(maps_BPP.shape)


class MapStatistics(NamedTuple):
    """Mean and population standard deviation of a map in [0, 1], and its foreground.

    `foreground_share` is of the patches of a 7 x 7 grid over the whole image, by the paper's rule;
    `separability` is that of the same grid, rounded so that no processor changes its last digit.
    """

    mean: float
    std: float
    foreground_share: float
    separability: float


def map_statistics(levels: NDArray[np.uint8]) -> MapStatistics:
    """Statistics of a stored map, uint8 [S, S], for the manifest."""
    saliency = levels.astype(np.float64) / 255
    grid = cv2.resize(saliency, (GRID_SIDE, GRID_SIDE), interpolation=cv2.INTER_AREA)
    grid = np.asarray(grid, np.float64)
    of_grid = float(foreground(grid).mean()), round(float(separability(grid)), 9)
    return MapStatistics(float(saliency.mean()), float(saliency.std()), *of_grid)


def check_rule(rule: str, threshold: float) -> None:
    """Raises ``InputError`` for an unknown rule or a threshold that is no number."""
    if rule not in RULES:
        raise InputError(f"unknown foreground rule {rule!r}: choose from {', '.join(RULES)}")
    if not math.isfinite(threshold):
        raise InputError(f"foreground_threshold is {threshold}: wanted a finite number")
