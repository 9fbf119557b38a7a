"""Average precision as COCO defines it, with a bootstrap interval over images.

AP is the mean over classes of the area under precision by recall (101 points), further averaged
over the overlaps 0.50, 0.55 ... 0.95 that a detection must have; AP50 and AP75 take one of them.
pycocotools matches detections with boxes. In the bootstrap these matches stay as they are, and an
image that is drawn twice counts twice.

Shapes: T overlaps, I images, D detections of a class, R resamples.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.evaluate.detection.boxes import BoxSet
from training.evaluate.detection.readers import coco_tools, outline_runs
from training.evaluate.intervals import percentile_interval

Kind = Literal["bbox", "segm"]
Detection = dict[str, Any]
"""One object as COCO's results have it: `image_id` from 1, `category_id` from 0, `bbox` (x, y,
width, height in pixels of the image), `score`; `segmentation` in run lengths, if it has a mask."""
MOST = 100
"""Detections of an image that count: those with the highest scores."""
MEASURES: Mapping[str, slice] = {"AP": slice(0, 10), "AP50": slice(0, 1), "AP75": slice(5, 6)}
"""Name -> which of COCO's ten overlaps it averages over."""
RESAMPLES = 1000
RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads off the precision."""


class Precision(NamedTuple):
    """One measure, in percent, and its 95 % bootstrap interval over images."""

    figure: float
    interval: tuple[float, float]


class ClassMatches(NamedTuple):
    """The detections of one class, the highest score first, and the boxes to find in every image.

    A detection that is matched to an ignored object is neither hit nor miss.
    """

    wanted_I: NDArray[np.int64]
    image_D: NDArray[np.int64]
    hit_TD: NDArray[np.bool_]
    miss_TD: NDArray[np.bool_]


def average_precisions(
    images: BoxSet, found: Sequence[Detection], kind: Kind = "bbox", *, seed: int = 0
) -> dict[str, Precision]:
    """Score the detections of images, as boxes or masks: a `Precision` for each of `MEASURES`.

    Classes without a box to find are left out of the means. The seed is that of the bootstrap.
    """
    num_images = images.num_images
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress
        truth, result = _coco(images, _truth(images, kind)), _coco(images, found)
        judge = coco_tools("cocoeval").COCOeval(truth, result, kind)
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.params.maxDets = [MOST]
        judge.evaluate()
    draws = np.random.default_rng(seed)
    resampled_RI = draws.multinomial(num_images, np.full(num_images, 1 / num_images), RESAMPLES)
    weights_RI = np.concatenate([np.ones((1, num_images), np.int64), resampled_RI])
    mean_RT = 100 * mean_precision(class_matches(judge.evalImgs, num_images), weights_RI)
    precisions = {}
    for name, overlaps in MEASURES.items():
        whole, *drawn = mean_RT[:, overlaps].mean(axis=1)
        precisions[name] = Precision(float(whole), percentile_interval(drawn))
    return precisions


def _truth(images: BoxSet, kind: Kind) -> Iterator[Detection]:
    for number, picture in enumerate(images.pictures, start=1):
        for box in picture.boxes:
            x0, y0, x1, y1 = box.box
            one = {
                "image_id": number,
                "category_id": images.class_names.index(box.name),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": int(box.ignored),
            }
            if kind == "segm":
                one["segmentation"] = outline_runs(box.outline, picture.height, picture.width)
            yield one


def _coco(images: BoxSet, objects: Iterable[Detection]) -> Any:  # noqa: ANN401  (no types)
    made = coco_tools("coco").COCO()
    made.dataset = {
        "images": [
            {"id": number, "width": picture.width, "height": picture.height}
            for number, picture in enumerate(images.pictures, start=1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(images.class_names)],
        "annotations": [
            # The number 0 would mean: matched nothing.
            one | {"id": number, "area": one["bbox"][2] * one["bbox"][3]}
            for number, one in enumerate(objects, start=1)
        ],
    }
    made.createIndex()
    return made


def class_matches(judged: Sequence[dict[str, Any] | None], num_images: int) -> list[ClassMatches]:
    """The matches in `COCOeval.evalImgs` [classes * I]; classes without a box are left out."""
    classes = []
    for first in range(0, len(judged), num_images):
        there = [(i, one) for i, one in enumerate(judged[first : first + num_images]) if one]
        wanted_I = np.zeros(num_images, dtype=np.int64)
        for i, one in there:
            wanted_I[i] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
        if not wanted_I.any():
            continue
        image_D = np.repeat([i for i, _ in there], [len(one["dtScores"]) for _, one in there])
        order = np.argsort(-np.concatenate([one["dtScores"] for _, one in there]), kind="stable")
        matched_TD, ignored_TD = (
            np.concatenate([np.asarray(one[key], dtype=bool) for _, one in there], axis=1)[:, order]
            for key in ("dtMatches", "dtIgnore")
        )
        hit_TD, miss_TD = matched_TD & ~ignored_TD, ~matched_TD & ~ignored_TD
        classes.append(ClassMatches(wanted_I, image_D[order], hit_TD, miss_TD))
    return classes


def mean_precision(
    classes: Sequence[ClassMatches], weights_RI: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean over classes of the average precision where image i counts `weights_RI[r, i]` times.

    [R, T], in [0, 1]; a class without a box to find in a resample is left out of its mean.
    """
    per_class = np.stack([weighted_precision(one, weights_RI) for one in classes])
    counts_RT = (~np.isnan(per_class)).sum(axis=0)
    mean_RT: NDArray[np.float64] = np.nansum(per_class, axis=0) / np.maximum(counts_RT, 1)
    return mean_RT


def weighted_precision(matches: ClassMatches, weights_RI: NDArray[np.int64]) -> NDArray[np.float64]:
    """The same of one class: [R, T]; nan where no box is to be found."""
    wanted_R = weights_RI @ matches.wanted_I
    weights_RD = weights_RI[:, matches.image_D]
    found_RT = np.full((len(weights_RI), len(matches.hit_TD)), np.nan)
    for t, (hit_D, miss_D) in enumerate(zip(matches.hit_TD, matches.miss_TD, strict=True)):
        found_RT[wanted_R > 0, t] = 0.0
        if not hit_D.any():  # as with most of many classes
            continue
        hits_RD = np.cumsum(weights_RD * hit_D, axis=1)
        misses_RD = np.cumsum(weights_RD * miss_D, axis=1)
        precision_RD = hits_RD / np.maximum(hits_RD + misses_RD, 1)
        # The precision at a recall is the best one at that recall or any above it.
        best_RD = np.maximum.accumulate(precision_RD[:, ::-1], axis=1)[:, ::-1]
        best_RD = np.pad(best_RD, ((0, 0), (0, 1)))  # a recall that is never reached: 0
        for r in np.flatnonzero(wanted_R):
            at = np.searchsorted(hits_RD[r] / wanted_R[r], RECALLS, side="left")
            found_RT[r, t] = best_RD[r, at].mean()
    return found_RT
