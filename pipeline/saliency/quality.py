"""How well a saliency map finds the object of a mask.

Patches are what training masks: map and mask are averaged by area to 7 x 7 over the whole image,
and a patch is positive where more than half of it is object.

- AUC: of the ranking of the patches, ties counting half (the area under the ROC curve);
- IoU: of the k highest patches with the k positive ones, ties shared out; also on 56 x 56 cells,
  as many as a stored map has, and there of the images with a small object by themselves;
- clear: share of the maps that set an object apart clearly (`pipeline.saliency.worth`), whatever
  the mask.

Pixels, as the field measures them: the map resized to the mask's own size.

- max F-measure: (1 + b2) P R / (b2 P + R) with b2 = 0.3 (Achanta et al., CVPR 2009), P and R
  averaged over the images at each of 256 thresholds, then the best threshold;
- MAE: mean absolute difference.

Shapes: H W pixels of the mask, h w cells of the map, G grid side.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.foreground import GRID_SIDE, separability
from pipeline.saliency.interface import Map, to_grid
from pipeline.saliency.worth import SEPARABLE
from pipeline.shardset.schema import SALIENCY_SIZE

SMALL = 0.1
"""Share of an image below which its object is small."""
BETA_SQUARED = 0.3
NUM_LEVELS = 256

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class MapQuality(NamedTuple):
    """The quality of one map: None where a measure is not defined.

    `curve` is float64 [2, 256], precision and recall of the pixels at or above each level, `area`
    the object's share of the image.
    """

    auc: float | None
    iou: float | None
    mae: float
    curve: Floats | None
    iou_56: float | None
    area: float
    is_clear: bool


class Quality(NamedTuple):
    """Means over the images that a measure is defined for (NaN: none).

    `num_counted` images have a positive patch; `small_56` is `iou_56` of those with a small object,
    `iou_clear` and `iou_unclear` are the `iou` of those with a clear map and of the others.
    """

    auc: float
    iou: float
    max_f: float
    mae: float
    iou_56: float
    small_56: float
    clear: float
    iou_clear: float
    iou_unclear: float
    num_images: int
    num_counted: int


def map_quality(saliency: Map, mask: Mask) -> MapQuality:
    """Measure one map, float32 [h, w] in [0, 1] of any size, by a mask, bool [H, W]."""
    white = mask.astype(np.float32)
    scores_GG, positive_GG = to_grid(saliency, GRID_SIDE), to_grid(white, GRID_SIDE) > 0.5
    cells, positive_cells = to_grid(saliency, SALIENCY_SIZE), to_grid(white, SALIENCY_SIZE) > 0.5
    height, width = mask.shape
    resized = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    pixels = np.clip(np.asarray(resized, dtype=np.float32), 0, 1)
    return MapQuality(
        auc=ranking_auc(scores_GG, positive_GG),
        iou=top_iou(scores_GG, positive_GG),
        mae=float(np.abs(pixels.astype(np.float64) - mask).mean()),
        curve=precision_recall(pixels, mask),
        iou_56=top_iou(cells, positive_cells),
        area=float(mask.mean()),
        is_clear=bool(separability(np.asarray(scores_GG, np.float64)) >= SEPARABLE),
    )


def summarise(qualities: list[MapQuality]) -> Quality:
    """Average over images."""
    ious = [q.iou for q in qualities if q.iou is not None]
    curves = [q.curve for q in qualities if q.curve is not None]
    return Quality(
        auc=_mean([q.auc for q in qualities if q.auc is not None]),
        iou=_mean(ious),
        max_f=max_f_measure(np.mean(curves, axis=0)) if curves else float("nan"),
        mae=_mean([q.mae for q in qualities]),
        iou_56=_mean([q.iou_56 for q in qualities if q.iou_56 is not None]),
        small_56=_mean([q.iou_56 for q in qualities if q.iou_56 is not None and q.area < SMALL]),
        clear=_mean([float(q.is_clear) for q in qualities]),
        iou_clear=_mean([q.iou for q in qualities if q.iou is not None and q.is_clear]),
        iou_unclear=_mean([q.iou for q in qualities if q.iou is not None and not q.is_clear]),
        num_images=len(qualities),
        num_counted=len(ious),
    )


def ranking_auc(scores: NDArray[np.floating], positive: Mask) -> float | None:
    """Probability that a positive ranks above a negative; None where one class is empty."""
    above, below = scores[positive], scores[~positive]
    if not above.size or not below.size:
        return None
    wins = (above[:, None] > below).mean(dtype=np.float64)
    ties = (above[:, None] == below).mean(dtype=np.float64)
    return float(wins + ties / 2)


def top_iou(scores: NDArray[np.floating], positive: Mask) -> float | None:
    """Intersection over union of the k highest with the k positive ones; None if k is 0.

    Where ties leave open which the k highest are, the intersection is its expectation over all
    ways to choose among them.
    """
    k = int(positive.sum())
    if k == 0:
        return None
    threshold = np.sort(scores, axis=None)[-k]
    above, tied = scores > threshold, scores == threshold
    share = (k - int(above.sum())) / int(tied.sum())
    hits = int(positive[above].sum()) + share * int(positive[tied].sum())
    return float(hits / (2 * k - hits))


def precision_recall(pixels: Map, mask: Mask) -> Floats | None:
    """Precision and recall, float64 [2, 256], of `pixels >= t / 255`, pixels rounded to 8 bit.

    Precision is 0 where no pixel is that high. None where the mask is empty.
    """
    num_positive = int(mask.sum())
    if num_positive == 0:
        return None
    levels = np.rint(pixels * (NUM_LEVELS - 1)).astype(np.uint8)
    hits = np.bincount(levels[mask], minlength=NUM_LEVELS)[::-1].cumsum()[::-1]
    marked = np.bincount(levels.ravel(), minlength=NUM_LEVELS)[::-1].cumsum()[::-1]
    return np.stack([hits / np.maximum(marked, 1), hits / num_positive])


def max_f_measure(curve: Floats) -> float:
    """The best F-measure along a curve of precision and recall, [2, n]; 0 where both are 0."""
    precision, recall = curve
    weighed = BETA_SQUARED * precision + recall
    product = (1 + BETA_SQUARED) * precision * recall
    return float(np.max(product / np.where(weighed > 0, weighed, 1)))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
