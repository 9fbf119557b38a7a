"""Average precision, as COCO defines it: pycocotools matches and measures, we draw the interval.

AP is the mean over classes of the area under precision by recall (101 points), further averaged
over the overlaps 0.50, 0.55 ... 0.95 that a detection must have; AP50 and AP75 take one of them.

Shapes: T overlaps, I images, D detections of a class, R resamples, N detections of an image.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from training.evaluate.detection.annotations import BoxSet
from training.evaluate.detection.coco_tools import coco_tools, outline_runs
from training.evaluate.detection.precision_interval import ClassMatches, resampled_precisions

Kind = Literal["bbox", "segm"]
MOST = 100
"""Detections of an image that count: those with the highest scores."""
MEASURES: Mapping[str, slice] = {"AP": slice(0, 10), "AP50": slice(0, 1), "AP75": slice(5, 6)}
"""Name -> which of COCO's ten overlaps it averages over."""
COVERAGE = 95


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one image.

    Attributes:
        boxes_N4: float [N, 4], x0, y0, x1, y1 in pixels of the image.
        scores_N: float [N].
        labels_N: int64 [N], from 0.
        masks: run lengths of each, where the detector gives masks.
    """

    boxes_N4: NDArray[np.float64]
    scores_N: NDArray[np.float64]
    labels_N: NDArray[np.int64]
    masks: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True)
class Precision:
    """One measure, in percent, and its 95 % bootstrap interval over images."""

    figure: float
    interval: tuple[float, float]


def average_precisions(
    images: BoxSet, found: Sequence[Detections], kind: Kind = "bbox", *, seed: int = 0
) -> dict[str, Precision]:
    """Score detections.

    Args:
        images: with the boxes that were to be found, I of them.
        found: per image, in their order.
        kind: whether boxes or masks are compared.
        seed: of the bootstrap.

    Returns:
        By the names of `MEASURES`. Classes without a box to find are left out of the means.
    """
    assert len(found) == images.num_images
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress
        truth = _coco(_truth(images, kind))
        result = _coco(_result(images, found, kind))
        judge = coco_tools("cocoeval").COCOeval(truth, result, kind)
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.params.maxDets = [MOST]
        judge.evaluate()
        judge.accumulate()
    # [T, recall points, K, areas = 1, limits = 1]; -1 where a class has no box to find
    precision = judge.eval["precision"][..., 0, 0]
    drawn_RT = resampled_precisions(
        class_matches(judge.evalImgs, images.num_images), images.num_images, seed=seed
    )
    tail = (100 - COVERAGE) / 2
    precisions = {}
    for name, overlaps in MEASURES.items():
        there = precision[overlaps]
        low, high = np.percentile(100 * drawn_RT[:, overlaps].mean(axis=1), [tail, 100 - tail])
        precisions[name] = Precision(
            100 * float(there[there > -1].mean()), (float(low), float(high))
        )
    return precisions


def _coco(content: dict[str, Any]) -> Any:  # noqa: ANN401  # pycocotools has no types
    made = coco_tools("coco").COCO()
    made.dataset = content
    made.createIndex()
    return made


def _frame(images: BoxSet) -> dict[str, Any]:
    listed = [
        {"id": number, "width": picture.width, "height": picture.height}
        for number, picture in enumerate(images.pictures, start=1)
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(images.class_names)]
    return {"images": listed, "categories": categories, "annotations": []}


def _truth(images: BoxSet, kind: Kind) -> dict[str, Any]:
    content, label_of = _frame(images), {name: k for k, name in enumerate(images.class_names)}
    for number, picture in enumerate(images.pictures, start=1):
        for box in picture.boxes:
            entry = _entry(content, number, label_of[box.name], np.array(box.box))
            entry["iscrowd"] = int(box.ignored)
            if kind == "segm":
                entry["segmentation"] = outline_runs(box.outline, picture.height, picture.width)
    return content


def _result(images: BoxSet, found: Sequence[Detections], kind: Kind) -> dict[str, Any]:
    content = _frame(images)
    for number, one in enumerate(found, start=1):
        for at, (box, score, label) in enumerate(
            zip(one.boxes_N4, one.scores_N, one.labels_N, strict=True)
        ):
            entry = _entry(content, number, int(label), box)
            entry["score"] = float(score)
            if kind == "segm":
                assert one.masks is not None
                entry["segmentation"] = one.masks[at]
    return content


def _entry(
    content: dict[str, Any], image: int, label: int, box_4: NDArray[np.float64]
) -> dict[str, Any]:
    x0, y0, x1, y1 = map(float, box_4)
    entry: dict[str, Any] = {
        "id": len(content["annotations"]) + 1,  # 0 would mean: matched nothing
        "image_id": image,
        "category_id": label,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "iscrowd": 0,
    }
    content["annotations"].append(entry)
    return entry


def class_matches(judged: Sequence[dict[str, Any] | None], num_images: int) -> list[ClassMatches]:
    """The matches that pycocotools made, one class after the other, the highest score first.

    Args:
        judged: `COCOeval.evalImgs` of one range of areas: [classes * I].
        num_images: I.
    """
    classes = []
    for first in range(0, len(judged), num_images):
        there = [(i, one) for i, one in enumerate(judged[first : first + num_images]) if one]
        wanted_I = np.zeros(num_images, dtype=np.int64)
        for i, one in there:
            wanted_I[i] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
        if not wanted_I.any():
            continue
        image_D = np.concatenate([np.full(len(one["dtScores"]), i) for i, one in there])
        scores_D = np.concatenate([one["dtScores"] for _, one in there])
        order = np.argsort(-scores_D, kind="stable")
        matched_TD, ignored_TD = (
            np.concatenate([np.asarray(one[key], dtype=bool) for _, one in there], axis=1)[:, order]
            for key in ("dtMatches", "dtIgnore")
        )
        counted_TD = ~ignored_TD
        image_D = image_D[order].astype(np.int64)
        classes.append(
            ClassMatches(wanted_I, image_D, matched_TD & counted_TD, ~matched_TD & counted_TD)
        )
    return classes
