"""Images with boxes as tensors, flipped by chance and shuffled, loaded ahead of use.

Shapes: H W pixels, N boxes of an image.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import ImageError, InputError
from pipeline.images.codecs import decode_source
from training.evaluate.detection.annotations import Annotated, BoxSet
from training.evaluate.detection.coco_tools import outline_mask
from training.randomness.draws import sample_seeds

Target = dict[str, Tensor]
Sample = tuple[Tensor, Target]
"""uint8 [3, H, W]; boxes float32 [N, 4], labels int64 [N] from 1, perhaps masks uint8 [N, H, W]."""
ORDER_DOMAIN, FLIP_DOMAIN = 0x424F5845, 0x464C4950
"""Keep the hashes of order and flips apart from each other and from others."""


def training_batches(
    images: BoxSet, *, steps: int, batch_size: int, with_masks: bool, seed: int, num_threads: int
) -> Iterator[list[Sample]]:
    """Every step's batch, from an endless row of shuffled passes; half of the images flipped.

    Ignored objects are left out.

    Args:
        images: to learn from.
        steps: number of batches.
        batch_size: images in each.
        with_masks: whether the targets have masks.
        seed: of order and flips.
        num_threads: that decode.
    """

    @lru_cache(maxsize=2)
    def order(turn: int) -> NDArray[np.int64]:
        seeds_M = sample_seeds(seed + ORDER_DOMAIN, turn, np.arange(images.num_images))
        return np.argsort(seeds_M, kind="stable")

    def at(place: int) -> tuple[int, bool]:
        turn, position = divmod(place, images.num_images)
        number = int(order(turn)[position])
        drawn = sample_seeds(seed + FLIP_DOMAIN, turn, np.array([number]))
        return number, bool(int(drawn[0]) & 1)

    starts = (step * batch_size for step in range(steps))
    batches = ([at(place) for place in range(start, start + batch_size)] for start in starts)
    return _loaded(images, batches, with_masks=with_masks, num_threads=num_threads)


def plain_batches(images: BoxSet, *, batch_size: int, num_threads: int) -> Iterator[list[Sample]]:
    """All images once, in their order, as they are."""
    starts = range(0, images.num_images, batch_size)
    batches = (
        [(number, False) for number in range(start, min(start + batch_size, images.num_images))]
        for start in starts
    )
    return _loaded(images, batches, with_masks=False, num_threads=num_threads)


def _loaded(
    images: BoxSet,
    batches: Iterable[Sequence[tuple[int, bool]]],
    *,
    with_masks: bool,
    num_threads: int,
) -> Iterator[list[Sample]]:
    label_of = {name: number for number, name in enumerate(images.class_names, start=1)}

    def load(item: tuple[int, bool]) -> Sample:
        number, flip = item
        picture = images.pictures[number]
        sample = image_of(picture), target_of(picture, label_of, with_masks=with_masks)
        return flipped(*sample) if flip else sample

    with ThreadPoolExecutor(num_threads) as pool:
        waiting: list[Future[Sample]] = []
        try:
            for batch in chain(batches, [()]):  # one batch ahead of the one in use
                ready, waiting = waiting, [pool.submit(load, item) for item in batch]
                if ready:
                    yield [future.result() for future in ready]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def image_of(picture: Annotated) -> Tensor:
    """Decode an image, uint8 RGB [3, H, W]; raises InputError naming what cannot be decoded."""
    try:
        pixels_HW3 = decode_source(picture.file.read_bytes()).pixels
    except (OSError, ImageError) as error:
        raise InputError(f"{picture.file}: {error} (move it and its boxes away)") from error
    if pixels_HW3.shape[:2] != (picture.height, picture.width):
        raise InputError(
            f"{picture.file} decodes to {pixels_HW3.shape[1]} x {pixels_HW3.shape[0]} pixels, "
            f"{picture.source} says {picture.width} x {picture.height}"
        )
    return torch.from_numpy(pixels_HW3.copy()).permute(2, 0, 1)


def target_of(picture: Annotated, label_of: dict[str, int], *, with_masks: bool) -> Target:
    """The boxes to learn from."""
    boxes = [box for box in picture.boxes if not box.ignored]
    corners = np.array([box.box for box in boxes], dtype=np.float32).reshape(-1, 4)
    labels = np.array([label_of[box.name] for box in boxes], dtype=np.int64)
    target = {"boxes": torch.from_numpy(corners), "labels": torch.from_numpy(labels)}
    if with_masks:
        size = (picture.height, picture.width)
        masks: list[Any] = [outline_mask(box.outline, *size) for box in boxes]
        stacked = np.stack(masks) if masks else np.zeros((0, *size), dtype=np.uint8)
        target["masks"] = torch.from_numpy(stacked)
    return target


def flipped(image_3HW: Tensor, target: Target) -> Sample:
    """The mirror image, left for right, with its boxes and masks."""
    width = image_3HW.shape[-1]
    x0, y0, x1, y1 = target["boxes"].unbind(dim=1)
    mirrored = target | {"boxes": torch.stack((width - x1, y0, width - x0, y1), dim=1)}
    if "masks" in target:
        mirrored["masks"] = target["masks"].flip(-1)
    return image_3HW.flip(-1), mirrored
