"""A second look, on maps whose answer is known."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.interface import Image, Map, SaliencySource, flat_map
from pipeline.saliency.refined import Refined
from pipeline.saliency.registry import (
    describe_saliency_source,
    described_saliency_source,
    parse_saliency_source,
)
from pipeline.saliency.second_look import SecondLook
from tests.pipeline.saliency.test_sources import disc

SHAPE = (112, 224)
"""Two by four pixels a cell."""


def planted(*blocks: tuple[int, int, int, int]) -> Map:
    """A map that is 1 in blocks (top, bottom, left, right) and 0.2 elsewhere."""
    cells = np.full((56, 56), 0.2, np.float32)
    for top, bottom, left, right in blocks:
        cells[top:bottom, left:right] = 1
    return cells


def noise(seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class Planted(SaliencySource):
    """Gives whole images one map and their parts another; keeps the images that it is given."""

    whole: Map
    part: Map
    seen: list[list[Image]] = field(default_factory=list)

    def __call__(self, images: list[Image]) -> list[Map]:  # type: ignore[override]
        self.seen.append(images)
        return [(self.whole if i.shape[:2] == SHAPE else self.part).copy() for i in images]


def look(whole: Map, part: Map, image: NDArray[np.uint8], **options: float) -> tuple[Map, Planted]:
    base = Planted(whole=whole, part=part)
    (found,) = SecondLook(base=base, **options)([image])  # type: ignore[arg-type]
    return found, base


def test_the_box_is_looked_at_again_and_the_maps_are_mixed() -> None:
    # Of 90, 12 and 4 cells: the last is less than a tenth of the largest, and does not count.
    whole = planted((10, 20, 20, 29), (26, 30, 34, 37), (50, 52, 50, 52))
    ramp = np.tile(np.linspace(0, 1, 23, dtype=np.float32), (26, 1))
    image = noise()
    found, base = look(whole, ramp, image)
    # The box of both, rows 10 to 29 and columns 20 to 36, and three cells more.
    expected = whole / 2
    expected[7:33, 17:40] += ramp / 2
    assert np.allclose(found, expected, atol=1e-7)
    assert found.dtype == np.float32
    (first, second) = base.seen
    assert np.array_equal(first[0], image)
    assert np.array_equal(second[0], image[14:66, 68:160])
    # With margin 0 and all components; at the edge the box ends.
    found, base = look(planted((0, 9, 0, 10), (50, 52, 30, 32)), ramp, image, margin=0, least=0.01)
    assert np.array_equal(base.seen[1][0], image[0:104, 0:128])
    found, base = look(planted((0, 9, 0, 10)), ramp, image)
    assert np.array_equal(base.seen[1][0], image[0:24, 0:52])
    found, base = look(planted((48, 56, 46, 56)), ramp, image)
    assert np.array_equal(base.seen[1][0], image[90:112, 172:224])
    whole[40:50, 20:29] = 0.6  # the threshold decides whether it counts
    looked = [look(whole, ramp, image, threshold=t)[1].seen[1][0] for t in (0.5, 3)]
    assert [len(crop) for crop in looked] == [92, 52]


SMALL, LARGE = planted((10, 20, 20, 29)), planted((2, 54, 2, 46))
"""The box of the second one is 88 % of the image, where the threshold is the mean."""


@pytest.mark.parametrize(
    ("whole", "part", "image", "calls"),
    [
        (flat_map(), SMALL, noise(), 1),
        (SMALL, flat_map(), noise(), 2),
        (SMALL, SMALL, np.full((*SHAPE, 3), 7, np.uint8), 1),
        (LARGE, SMALL, noise(), 1),
    ],
    ids=["nothing stands out", "a flat map", "a flat crop", "most of the image"],
)
def test_else_the_first_map_stands(
    whole: Map, part: Map, image: NDArray[np.uint8], calls: int
) -> None:
    found, base = look(whole, part, image, threshold=0)
    assert np.array_equal(found, whole)
    assert len(base.seen) == calls
    found, _ = look(LARGE, SMALL, noise(), threshold=0, most=0.9)
    assert not np.array_equal(found, LARGE)
    assert np.array_equal(look(LARGE, SMALL, noise(), most=1)[0], LARGE), "an empty region"


def test_a_batch_is_two_calls_and_gives_what_single_images_give() -> None:
    flat, tiny = np.full((40, 40, 3), 9, np.uint8), disc()[:3, :2].copy()
    images = [disc(), flat, disc(120, 90, 30, 80), tiny]
    source = parse_saliency_source("boundary:second_look=true")
    for image, saliency in zip(images, source(images), strict=True):
        assert np.array_equal(source([image])[0], saliency)
        assert 0 <= saliency.min() <= saliency.max() <= 1
    base = Planted(whole=planted((10, 20, 20, 29)), part=planted())
    SecondLook(base=base)([noise(0), np.zeros((*SHAPE, 3), np.uint8), noise(1)])
    assert [len(call) for call in base.seen] == [3, 2]
    thin = planted((20, 22, 20, 29))  # a box that has none of two rows of pixels
    found, base = look(thin, thin, noise()[:2].copy())
    assert (np.array_equal(found, thin), len(base.seen)) == (True, 1)


def test_it_is_an_option_of_every_source_and_goes_with_refine() -> None:
    both = parse_saliency_source(
        "boundary:side=64,second_look=true,refine=true,second_look_margin=2"
    )
    assert both == Refined(base=SecondLook(base=Boundary(side=64), margin=2))
    described = describe_saliency_source("boundary", both)
    own = {"threshold": 1.0, "least": 0.1, "margin": 2, "most": 0.8}
    assert (described["second_look"], described["side"]) == (own, 64)
    assert described_saliency_source(json.loads(json.dumps(described))) == both


def test_it_is_part_of_the_plan(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), disc(x=40 + 10 * number))
    given = {"data": tmp_path / "images", "out": tmp_path / "shards"}
    looking = "boundary:second_look=true"
    run_precompute(PrecomputeConfig(**given, saliency=looking))  # type: ignore[arg-type]
    described = json.loads((tmp_path / "shards" / "dataset.json").read_text())["saliency"]
    assert described["second_look"]["margin"] == 3
    for other in ("boundary", f"{looking},second_look_margin=4"):
        with pytest.raises(InputError, match="was begun with"):
            run_precompute(PrecomputeConfig(**given, saliency=other))  # type: ignore[arg-type]
