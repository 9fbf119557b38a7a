"""AP by hand, by pycocotools itself, and the interval's own count against both."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from training.evaluate.detection.annotations import Annotated, BoxSet, LabelledBox
from training.evaluate.detection.average_precision import (
    ClassMatches,
    Detections,
    average_precisions,
    class_matches,
    resampled_precisions,
    weighted_precision,
)
from training.evaluate.detection.coco_tools import mask_runs, outline_mask

Box = tuple[float, float, float, float]


def box_set(
    folder: Path, boxes: list[list[tuple[str, Box]]], *, ignored: tuple[tuple[int, int], ...] = ()
) -> BoxSet:
    pictures = []
    for number, some in enumerate(boxes):
        file = folder / f"{number}.png"
        file.write_bytes(b"")
        labelled = tuple(
            LabelledBox(
                name=name,
                box=box,
                ignored=(number, at) in ignored,
                outline=[[box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]],
            )
            for at, (name, box) in enumerate(some)
        )
        picture = Annotated(file=file, source="made", width=100, height=100, boxes=labelled)
        pictures.append(picture)
    return BoxSet(folder, ("cat", "dog"), tuple(pictures))


def found(*some: tuple[int, float, Box]) -> Detections:
    return Detections(
        boxes_N4=np.array([box for *_, box in some], dtype=np.float64).reshape(-1, 4),
        scores_N=np.array([score for _, score, _ in some], dtype=np.float64),
        labels_N=np.array([label for label, *_ in some], dtype=np.int64),
    )


def test_ap_by_hand(tmp_path: Path) -> None:
    """One class, three boxes, four detections.

    Sorted: hit (overlap 1), miss, hit (overlap 0.8), miss; one box is never found. Precision at
    recall 1/3 is 1, at 2/3 it is 2/3, and above it 0. Of the 101 recalls 34 are <= 1/3, 33 more
    are <= 2/3: AP50 = AP75 = (34 + 33 * 2/3) / 101. From an overlap of 0.85 on (three of the ten)
    the second hit is a miss: 34 / 101.
    """
    images = box_set(
        tmp_path,
        [
            [("cat", (0, 0, 10, 10)), ("cat", (50, 50, 60, 60))],
            [("cat", (20, 20, 30, 30))],
        ],
    )
    detections = [
        found((0, 0.9, (0, 0, 10, 10)), (0, 0.8, (80, 80, 90, 90))),
        found((0, 0.7, (20, 20, 30, 28)), (0, 0.1, (0, 0, 5, 5))),
    ]
    result = average_precisions(images, detections)
    two_hits, one_hit = (34 + 33 * 2 / 3) / 101, 34 / 101
    assert result["AP50"].figure == pytest.approx(100 * two_hits)
    assert result["AP75"].figure == pytest.approx(100 * two_hits)
    assert result["AP"].figure == pytest.approx(100 * (7 * two_hits + 3 * one_hit) / 10)
    for one in result.values():
        low, high = one.interval
        assert 0 <= low <= one.figure + 1e-9
        assert one.figure - 1e-9 <= high <= 100


def test_the_ends(tmp_path: Path) -> None:
    images = box_set(tmp_path, [[("cat", (0, 0, 10, 10))], [("dog", (20, 20, 30, 30))], []])
    perfect = [found((0, 0.9, (0, 0, 10, 10))), found((1, 0.3, (20, 20, 30, 30))), found()]
    for one in average_precisions(images, perfect).values():
        assert one.figure == pytest.approx(100)
        assert one.interval[1] == pytest.approx(100)
    for one in average_precisions(images, [found()] * 3).values():
        assert (one.figure, one.interval) == (0, (0, 0))
    swapped = [found((1, 0.9, (0, 0, 10, 10))), found((0, 0.3, (20, 20, 30, 30))), found()]
    assert average_precisions(images, swapped)["AP50"].figure == 0


def test_an_ignored_box_costs_nothing(tmp_path: Path) -> None:
    boxes: list[list[tuple[str, Box]]] = [
        [("cat", (0, 0, 10, 10)), ("cat", (50, 50, 60, 60))],
        [("cat", (20, 20, 30, 30))],
    ]
    detections = [
        found((0, 0.9, (50, 50, 60, 60)), (0, 0.8, (0, 0, 10, 10))),
        found((0, 0.7, (20, 20, 30, 30))),
    ]
    ignoring = box_set(tmp_path, boxes, ignored=((0, 1),))
    assert average_precisions(ignoring, detections)["AP50"].figure == pytest.approx(100)
    missing = [found((0, 0.8, (0, 0, 10, 10))), detections[1]]
    assert average_precisions(ignoring, missing)["AP50"].figure == pytest.approx(100)


def scattered(seed: int, num: int) -> tuple[list[list[tuple[str, Box]]], list[Detections]]:
    """Boxes of two classes, detections that are shaken copies of them, and some from nowhere."""
    draw, boxes, detections = np.random.default_rng(seed), [], []
    for _ in range(num):
        some: list[tuple[str, Box]] = []
        guesses: list[tuple[int, float, Box]] = []
        for _ in range(draw.integers(0, 4)):
            x, y = draw.uniform(0, 60, 2)
            wide, high = draw.uniform(10, 40, 2)
            label = int(draw.integers(2))
            some.append((("cat", "dog")[label], (x, y, x + wide, y + high)))
            shift = draw.normal(0, 3, 4)
            shaken = (x + shift[0], y + shift[1], x + wide + shift[2], y + high + shift[3])
            guesses.append((label, draw.uniform(0.3, 1), shaken))
        for _ in range(draw.integers(0, 3)):
            x, y = draw.uniform(0, 60, 2)
            guesses.append((int(draw.integers(2)), draw.uniform(0, 0.7), (x, y, x + 20, y + 20)))
        boxes.append(some)
        detections.append(found(*guesses))
    return boxes, detections


def judged(boxes: list[list[tuple[str, Box]]], detections: list[Detections]) -> COCOeval:
    """pycocotools' own evaluation with its default parameters, fed by itself."""
    names, truth = ("cat", "dog"), COCO()
    truth.dataset = {
        "images": [{"id": i, "width": 100, "height": 100} for i in range(len(boxes))],
        "categories": [{"id": 1 + k, "name": name} for k, name in enumerate(names)],
        "annotations": [
            {"image_id": i, "category_id": 1 + names.index(name), "bbox": xywh(box), "iscrowd": 0}
            for i, some in enumerate(boxes)
            for name, box in some
        ],
    }
    for number, entry in enumerate(truth.dataset["annotations"], start=1):
        entry |= {"id": number, "area": entry["bbox"][2] * entry["bbox"][3]}
    rows = [
        [i, *xywh(box), score, 1 + label]
        for i, one in enumerate(detections)
        for box, score, label in zip(one.boxes_N4, one.scores_N, one.labels_N, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(np.array(rows)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def xywh(box: Box | NDArray[np.float64]) -> list[float]:
    x0, y0, x1, y1 = map(float, box)
    return [x0, y0, x1 - x0, y1 - y0]


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(tmp_path: Path, seed: int) -> None:
    boxes, detections = scattered(seed, 12)
    judge = judged(boxes, detections)
    result = average_precisions(box_set(tmp_path, boxes), detections)
    figures = [result[name].figure / 100 for name in ("AP", "AP50", "AP75")]
    assert figures == pytest.approx(judge.stats[:3].tolist(), abs=1e-12)
    assert 0.1 < figures[0] < 0.9, "nothing to compare"
    # The interval's own count, every image once, is pycocotools' too (its first area: all).
    num = len(boxes)
    matches = class_matches(_all_areas(judge, num), num)
    ours = [weighted_precision(one, np.ones((1, num), int))[0] for one in matches]
    theirs = judge.eval["precision"][:, :, :, 0, 2].mean(axis=1).T
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_an_image_that_is_drawn_twice_counts_twice(tmp_path: Path) -> None:
    boxes, detections = scattered(3, 6)
    num = len(boxes)
    matches = class_matches(_all_areas(judged(boxes, detections), num), num)
    twice = judged([*boxes, *boxes[:2]], [*detections, *detections[:2]])
    expected = [
        weighted_precision(one, np.ones((1, num + 2), int))
        for one in class_matches(_all_areas(twice, num + 2), num + 2)
    ]
    weights = np.array([[2, 2, 1, 1, 1, 1]])
    for one, wanted in zip(matches, expected, strict=True):
        np.testing.assert_allclose(weighted_precision(one, weights), wanted, atol=1e-12)


def _all_areas(judge: COCOeval, num: int) -> list[dict[str, object] | None]:
    areas = len(judge.params.areaRng)
    per_class = [judge.evalImgs[k * areas * num :][:num] for k in range(2)]
    return [one for some in per_class for one in some]


def test_the_interval_is_that_of_a_share() -> None:
    """100 images of one box each, found in 60 at full score: AP is the share, its spread binomial.

    No detection is wrong, so AP is (1 + floor(100 share)) / 101; the standard error of a share of
    0.6 over 100 images is 0.049, 95 % are 0.6 +- 0.096.
    """
    hits = np.ones((1, 60), dtype=bool)
    one = ClassMatches(np.ones(100, dtype=np.int64), np.arange(60), hits, ~hits)
    drawn = resampled_precisions([one], 100, seed=0)[:, 0]
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert low == pytest.approx(0.504, abs=0.025)
    assert high == pytest.approx(0.696, abs=0.025)
    again = resampled_precisions([one], 100, seed=0)[:, 0]
    assert np.array_equal(drawn, again)


def test_masks_are_compared_as_masks(tmp_path: Path) -> None:
    """The upper half of a square has its box's overlap with nothing but half of its mask."""
    images = box_set(tmp_path, [[("cat", (10, 10, 30, 30))]])
    whole = outline_mask(images.pictures[0].boxes[0].outline, 100, 100).astype(bool)
    assert whole.sum() == 400
    part = whole.copy()
    part[22:] = False  # 12 of 20 rows: an overlap of 0.6
    one = found((0, 0.9, (10, 10, 30, 30)))
    detections = [replace(one, masks=(mask_runs(part),))]
    boxes, masks = (average_precisions(images, detections, kind) for kind in ("bbox", "segm"))
    assert boxes["AP"].figure == pytest.approx(100)
    assert masks["AP50"].figure == pytest.approx(100)
    assert masks["AP75"].figure == 0
    assert masks["AP"].figure == pytest.approx(30), "0.5, 0.55 and 0.6 of ten overlaps"
