"""The guided filter brings a blurred map to the image's edges."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.interface import Image, Map
from pipeline.saliency.refined import Refined
from pipeline.saliency.uniform import Uniform


@dataclass(frozen=True, kw_only=True)
class Blurred:
    """Knows where the object is, but not its edges."""

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        return [cv2.GaussianBlur(is_object(), (0, 0), 6) for _ in images]  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """A source that reads weights."""

    weights: str = "here"
    digest: str = ""
    wants_gpu: ClassVar[bool] = True
    batch_images: ClassVar[int] = 64

    def pinned(self) -> "Weighted":
        return Weighted(weights=self.weights, digest="abc")

    def parameters(self) -> dict[str, object]:
        return {"digest": self.digest}

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        return Uniform()(images)


def is_object() -> NDArray[np.float32]:
    mask = np.zeros((100, 140), np.float32)
    mask[30:70, 50:100] = 1
    return mask


def picture() -> NDArray[np.uint8]:
    speckle = np.random.default_rng(0).integers(-6, 7, (100, 140, 3))
    colours = np.where(is_object()[..., None] > 0, (200, 80, 60), (60, 110, 80))
    return (colours + speckle).astype(np.uint8)


def test_edges_come_back_where_the_image_has_them() -> None:
    (before,) = Blurred()([picture()])
    (after,) = Refined(base=Blurred(), side=100, radius=0.12)([picture()])
    assert after.shape == before.shape
    step_before = before[50, 50] - before[50, 49]  # across the object's left edge
    step_after = after[50, 50] - after[50, 49]
    assert step_before < 0.1
    assert step_after > 0.4
    # and no new ones elsewhere: neighbours inside the background stay alike
    assert np.abs(np.diff(after[10:20], axis=1)).max() < 0.05


def test_larger_images_are_filtered_small() -> None:
    large = cv2.resize(picture(), (1400, 1000), interpolation=cv2.INTER_NEAREST)
    (saliency,) = Refined(base=Blurred(), side=50)([large.astype(np.uint8)])
    assert saliency.shape == (50, 70)


def test_flat_maps_stay_flat() -> None:
    (saliency,) = Refined(base=Uniform())([picture()])
    assert set(saliency.ravel().tolist()) == {0.5}


def test_a_base_with_weights_is_still_one() -> None:
    refined = Refined(base=Weighted())
    assert refined.wants_gpu
    assert refined.batch_images == 64
    assert refined.pinned() == Refined(base=Weighted(digest="abc"))
    assert refined.pinned().parameters()["digest"] == "abc"
    plain = Refined(base=Uniform())
    assert not plain.wants_gpu
    assert plain.pinned() is plain
