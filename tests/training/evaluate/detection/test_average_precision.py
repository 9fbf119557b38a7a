"""AP by hand, by pycocotools itself, and the interval's own count against both."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import decode, encode

from training.evaluate.detection import average_precision as module
from training.evaluate.detection.average_precision import (
    ClassMatches,
    Detection,
    average_precisions,
    class_matches,
    mean_precision,
    weighted_precision,
)
from training.evaluate.detection.boxes import BoxSet
from training.evaluate.detection.readers import Annotated, LabelledBox, outline_runs

Box = tuple[float, float, float, float]
Boxes = list[list[tuple[str, Box]]]
NAMES = ("cat", "dog")


def box_set(boxes: Boxes, *, ignored: tuple[tuple[int, int], ...] = ()) -> BoxSet:
    pictures = []
    for number, some in enumerate(boxes):
        labelled = tuple(
            LabelledBox(
                name=name,
                box=(x0, y0, x1, y1),
                ignored=(number, at) in ignored,
                outline=[[x0, y0, x1, y0, x1, y1, x0, y1]],
            )
            for at, (name, (x0, y0, x1, y1)) in enumerate(some)
        )
        file = Path(f"{number}.png")
        pictures.append(Annotated(file=file, source=file, width=100, height=100, boxes=labelled))
    return BoxSet(Path("boxes"), NAMES, tuple(pictures))


def found(*images: Sequence[tuple[int, float, Box]]) -> list[Detection]:
    """Labels, scores and boxes of the objects that were found in each image."""
    return [
        {
            "image_id": image,
            "category_id": label,
            "score": score,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
        }
        for image, some in enumerate(images, start=1)
        for label, score, (x0, y0, x1, y1) in some
    ]


CATS: Boxes = [
    [("cat", (0, 0, 10, 10)), ("cat", (50, 50, 60, 60))],
    [("cat", (20, 20, 30, 30))],
]


def test_ap_by_hand() -> None:
    """One class, three boxes, four detections.

    Sorted: hit (overlap 1), miss, hit (overlap 0.8), miss; one box is never found. Precision at
    recall 1/3 is 1, at 2/3 it is 2/3, and above it 0. Of the 101 recalls 34 are <= 1/3, 33 more
    are <= 2/3: AP50 = AP75 = (34 + 33 * 2/3) / 101. From an overlap of 0.85 on (three of the ten)
    the second hit is a miss: 34 / 101.
    """
    detections = found(
        [(0, 0.9, (0, 0, 10, 10)), (0, 0.8, (80, 80, 90, 90))],
        [(0, 0.7, (20, 20, 30, 28)), (0, 0.1, (0, 0, 5, 5))],
    )
    result = average_precisions(box_set(CATS), detections)
    two_hits, one_hit = (34 + 33 * 2 / 3) / 101, 34 / 101
    assert result["AP50"].figure == pytest.approx(100 * two_hits)
    assert result["AP75"].figure == pytest.approx(100 * two_hits)
    assert result["AP"].figure == pytest.approx(100 * (7 * two_hits + 3 * one_hit) / 10)
    for one in result.values():
        low, high = one.interval
        assert 0 <= low <= one.figure + 1e-9
        assert one.figure - 1e-9 <= high <= 100


def test_the_ends() -> None:
    images = box_set([[("cat", (0, 0, 10, 10))], [("dog", (20, 20, 30, 30))], []])

    def ap(first: int, second: int) -> list[tuple[float, tuple[float, float]]]:
        perfect = found([(first, 0.9, (0, 0, 10, 10))], [(second, 0.3, (20, 20, 30, 30))])
        precisions = average_precisions(images, perfect).values()
        return [(one.figure, one.interval) for one in precisions]

    for figure, (_, high) in ap(0, 1):
        assert (figure, high) == pytest.approx((100, 100))
    assert {figure for figure, _ in ap(1, 0)} == {0}, "boxes of the other class"
    assert set(average_precisions(images, []).values()) == {(0, (0, 0))}


def test_an_ignored_box_costs_nothing() -> None:
    """Neither where it is found, before all others, nor where it is not."""
    ignoring = box_set(CATS, ignored=((0, 1),))
    first, second = [(0, 0.8, CATS[0][0][1])], [(0, 0.7, CATS[1][0][1])]
    for some in (first, [(0, 0.9, CATS[0][1][1]), *first]):
        assert average_precisions(ignoring, found(some, second))["AP50"].figure == pytest.approx(
            100
        )


def scattered(seed: int, num: int) -> tuple[Boxes, list[list[tuple[int, float, Box]]]]:
    """Boxes of two classes, detections that are shaken copies of them, and some from nowhere."""
    draw, boxes, detections = np.random.default_rng(seed), [], []
    for _ in range(num):
        some: list[tuple[str, Box]] = []
        guesses: list[tuple[int, float, Box]] = []
        for _ in range(draw.integers(0, 4)):
            x, y = draw.uniform(0, 60, 2)
            wide, high = draw.uniform(10, 40, 2)
            label = int(draw.integers(2))
            some.append((NAMES[label], (x, y, x + wide, y + high)))
            a, b, c, d = draw.normal(0, 3, 4)
            shaken = (x + a, y + b, x + wide + c, y + high + d)
            guesses.append((label, draw.uniform(0.3, 1), shaken))
        for _ in range(draw.integers(0, 3)):
            x, y = draw.uniform(0, 60, 2)
            guesses.append((int(draw.integers(2)), draw.uniform(0, 0.7), (x, y, x + 20, y + 20)))
        boxes.append(some)
        detections.append(guesses)
    return boxes, detections


def judged(boxes: Boxes, detections: list[list[tuple[int, float, Box]]]) -> COCOeval:
    """pycocotools' own evaluation with its default parameters."""
    images = box_set(boxes)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = module._coco(images, module._truth(images, "bbox"))
        judge = COCOeval(truth, truth.loadRes(found(*detections)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def matches_of(judge: COCOeval, num: int) -> list[ClassMatches]:
    areas = len(judge.params.areaRng)  # the first one: all
    per_class = [judge.evalImgs[k * areas * num :][:num] for k in range(2)]
    return class_matches([one for some in per_class for one in some], num)


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(seed: int) -> None:
    boxes, detections = scattered(seed, 12)
    judge = judged(boxes, detections)
    result = average_precisions(box_set(boxes), found(*detections))
    figures = [result[name].figure / 100 for name in ("AP", "AP50", "AP75")]
    assert figures == pytest.approx(judge.stats[:3].tolist(), abs=1e-12)
    assert 0.1 < figures[0] < 0.9, "nothing to compare"


def test_an_image_that_is_drawn_twice_counts_twice() -> None:
    boxes, detections = scattered(3, 6)
    twice = judged([*boxes, *boxes[:2]], [*detections, *detections[:2]])
    weights = np.array([[2, 2, 1, 1, 1, 1]])
    ours = matches_of(judged(boxes, detections), 6)
    for one, other in zip(ours, matches_of(twice, 8), strict=True):
        wanted = weighted_precision(other, np.ones((1, 8), int))
        np.testing.assert_allclose(weighted_precision(one, weights), wanted, atol=1e-12)


def test_a_class_that_a_resample_lacks_is_left_out() -> None:
    hit = np.ones((1, 1), bool)
    first, second = (
        ClassMatches(np.array(wanted), np.array([image]), hit == right, hit != right)
        for wanted, image, right in (([1, 0], 0, True), ([0, 1], 1, False))
    )
    weights = np.array([[1, 1], [2, 0], [0, 2], [0, 0]])
    assert mean_precision([first, second], weights)[:, 0].tolist() == [0.5, 1, 0, 0]


def test_the_interval_is_that_of_a_share() -> None:
    """100 images of one box each, found in 60 at full score: AP is the share, its spread binomial.

    No detection is wrong, so AP is (1 + floor(100 share)) / 101; the standard error of a share of
    0.6 over 100 images is 0.049, 95 % are 0.6 +- 0.096.
    """
    box = (0.0, 0.0, 10.0, 10.0)
    images = box_set([[("cat", box)]] * 100)
    detections = found(*[[(0, 1.0, box)]] * 60)
    one, again, other = (average_precisions(images, detections, seed=s)["AP"] for s in (0, 0, 1))
    assert one.interval == pytest.approx((50.4, 69.6), abs=2.5)
    assert (one == again, one == other) == (True, False)


def test_masks_are_compared_as_masks() -> None:
    """The upper part of a square has its box's overlap with nothing but part of its mask."""
    images = box_set([[("cat", (10, 10, 30, 30))]])
    whole = decode(outline_runs(images.pictures[0].boxes[0].outline, 100, 100)).astype(bool)
    assert whole.sum() == 400
    part = whole.copy()
    part[22:] = False  # 12 of 20 rows: an overlap of 0.6
    detections: list[dict[str, Any]] = found([(0, 0.9, (10, 10, 30, 30))])
    detections[0]["segmentation"] = encode(np.asfortranarray(part.astype(np.uint8)))
    boxes, masks = (average_precisions(images, detections, kind) for kind in ("bbox", "segm"))
    assert boxes["AP"].figure == pytest.approx(100)
    assert masks["AP50"].figure == pytest.approx(100)
    assert masks["AP75"].figure == 0
    assert masks["AP"].figure == pytest.approx(30), "0.5, 0.55 and 0.6 of ten overlaps"
