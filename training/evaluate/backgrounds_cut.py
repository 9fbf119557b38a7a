"""Objects cut out of their pictures, and backgrounds whose holes are inpainted.

Shapes: P side of a stored map, H W pixels of the resized image, S side of the view, B batch.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.progress import track
from pipeline.images.preprocessing import resize_and_crop, resized, short_side
from training.core.distributed import gather_rows_of_any_number, rank, world_size
from training.evaluate.features import FeatureExtractor, view_boxes
from training.evaluate.labelled import LabelledImages
from training.views.crops import pool_saliency

INPAINT_RADIUS = 3
"""Pixels around a point that Telea's method looks at; OpenCV's own example."""
GRAIN_SIGMA = 2.0
"""Pixels of the view: what a Gaussian of this width takes away is texture."""


class Cut(NamedTuple):
    """A picture in two parts, as the test-time view shows it; of several pictures stacked."""

    view_SS3: NDArray[np.uint8]
    matte_SS: NDArray[np.uint8]
    """How much of a pixel is object, 255 is all of it."""
    background_SS3: NDArray[np.uint8]
    """The picture with its object removed and the hole inpainted."""


def cut_all(
    extractor: FeatureExtractor, images: LabelledImages, numbers_M: NDArray[np.int64], *, otsu: bool
) -> tuple[Cut, NDArray[np.float64]]:
    """The parts of all images and their objects' shares, on every rank; the ranks share the work.

    With `otsu` the maps are no masks, and masks are made of them (`binarised`).
    """

    def load(number: int) -> tuple[Cut, float]:
        image, mask_PP = images.image(number), images.saliency(number)
        if otsu:
            mask_PP = binarised(mask_PP)
        parts = cut(image, mask_PP, resize=extractor.resize, size=extractor.view_size)
        return parts, object_share(mask_PP, image.shape[0], image.shape[1])

    mine = np.array_split(numbers_M, world_size())[rank()].tolist()
    with ThreadPoolExecutor(extractor.num_threads) as pool:
        loaded = list(track(pool.map(load, mine), "objects cut out", len(mine), "images"))
    parts = [np.stack(part) for part in zip(*(parts for parts, _ in loaded), strict=True)]
    shares = np.array([share for _, share in loaded])
    *gathered, share_M = (
        gather_rows_of_any_number(torch.from_numpy(part)).numpy() for part in (*parts, shares)
    )
    return Cut(*gathered), share_M


def cut(image: NDArray[np.uint8], mask_PP: NDArray[np.uint8], *, resize: int, size: int) -> Cut:
    """Cut the object out of an RGB image at the resolution of its test-time view.

    The hole is inpainted in the whole resized image, before the centre crop. The mask, 255 is
    object, covers the whole image.
    """
    whole, (top, left) = resize_and_crop(image.shape[0], image.shape[1], resize, size)
    image_CHW, mask_1PP = torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask_PP)[None]
    resized_HW3 = np.ascontiguousarray(resized(image_CHW, *whole).permute(1, 2, 0).numpy())
    coverage_HW = resized(mask_1PP, *whole)[0].numpy().astype(np.float32) / 255
    # Resizing spreads an edge over two pixels or more; this makes it about one again.
    matte_HW = np.rint(255 * np.clip(2 * coverage_HW - 0.5, 0, 1)).astype(np.uint8)
    # One pixel more than the object, so that nothing of its edge stays.
    hole_HW = cv2.dilate((matte_HW > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    box = slice(top, top + size), slice(left, left + size)
    parts = (resized_HW3, matte_HW, inpainted(resized_HW3, hole_HW))
    return Cut(*(part[box].copy() for part in parts))


def binarised(levels_PP: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask from a map that is none: 255 above Otsu's threshold of the whole map, else 0."""
    _, mask_PP = cv2.threshold(levels_PP, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return np.asarray(mask_PP, dtype=np.uint8)


def object_share(mask_PP: NDArray[np.uint8], height: int, width: int) -> float:
    """Share of the test-time view of an image, height x width pixels, that is object.

    By the proportions of a view of 224 px, so that networks of any view keep the same images.
    """
    boxes = view_boxes(np.array([height]), np.array([width]), short_side(224), 224)
    return pool_saliency(mask_PP[None], boxes, 1).item()


def inpainted(image: NDArray[np.uint8], hole_HW: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Fill a hole with colours from its border and texture from the rest of the image.

    The colours are Telea's ("An image inpainting technique based on the fast marching method",
    2004). They are smooth, and alone would leave a silhouette without texture. The texture is
    that of the largest square outside the hole, mirrored over the image. An image without a hole,
    or without anything outside of it, stays as it is.
    """
    if not hole_HW.any() or hole_HW.all():
        return image
    hole = hole_HW.astype(np.uint8)
    smooth_HW3 = cv2.inpaint(image, hole, INPAINT_RADIUS, cv2.INPAINT_TELEA)
    distance_HW = cv2.distanceTransform(
        cv2.copyMakeBorder(1 - hole, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), cv2.DIST_C, 3
    )[1:-1, 1:-1]
    row, column = divmod(int(distance_HW.argmax()), distance_HW.shape[1])
    reach = int(distance_HW[row, column]) - 1
    top, bottom, left, right = row - reach, row + reach + 1, column - reach, column + reach + 1
    square = image[top:bottom, left:right].astype(np.float32)
    grain = square - cv2.GaussianBlur(square, (0, 0), GRAIN_SIGMA, borderType=cv2.BORDER_REFLECT)
    below, beside = hole.shape[0] - bottom, hole.shape[1] - right
    grain_HW3 = cv2.copyMakeBorder(grain, top, below, left, beside, cv2.BORDER_REFLECT)
    filled_HW3 = np.clip(np.rint(smooth_HW3 + grain_HW3), 0, 255).astype(np.uint8)
    return np.where(hole_HW[..., None], filled_HW3, image)


def composed(
    front_BSS3: NDArray[np.uint8], matte_BSS: NDArray[np.uint8], back_BSS3: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Lay objects over backgrounds: matte / 255 * front + (1 - matte / 255) * back, rounded."""
    matte = matte_BSS[..., None].astype(np.uint16)
    # At most 255 * 255 + 127, which 16 bits hold.
    mixed = matte * front_BSS3 + (np.uint16(255) - matte) * back_BSS3 + np.uint16(127)
    return (mixed // np.uint16(255)).astype(np.uint8)
