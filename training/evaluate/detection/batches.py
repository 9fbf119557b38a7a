"""Load images with boxes as tensors, shuffled and flipped at random, ahead of use.

Shapes: H W pixels, N boxes of an image.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, count, islice

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import ImageError, InputError
from pipeline.images.codecs import decode_source
from training.evaluate.detection.annotations import Annotated, BoxSet
from training.evaluate.detection.coco_tools import outline_mask
from training.randomness.draws import sample_seeds

Target = dict[str, Tensor]
Sample = tuple[Tensor, Target]
"""uint8 [3, H, W]; boxes float32 [N, 4], labels int64 [N] from 1, perhaps masks uint8 [N, H, W]."""
NUM_THREADS = min(8, os.cpu_count() or 1)
"""That decode."""
ORDER_DOMAIN, FLIP_DOMAIN = 0x424F5845, 0x464C4950
"""Keep the hashes of order and flips apart from each other and from others'."""


def training_batches(
    images: BoxSet, *, steps: int, batch_size: int, with_masks: bool, seed: int
) -> Iterator[list[Sample]]:
    """Yield every step's batch, from shuffled passes without end; half of the images are flipped.

    Ignored objects are left out of the targets; `with_masks` adds masks to them.
    """
    items = _shuffled(images.num_images, seed)
    batches = (list(islice(items, batch_size)) for _ in range(steps))
    return _loaded(images, batches, with_masks=with_masks)


def _shuffled(num_images: int, seed: int) -> Iterator[tuple[int, bool]]:
    """Numbers of images, and whether they are flipped, epoch by epoch without end."""
    numbers = np.arange(num_images)
    for epoch in count():
        order = np.argsort(sample_seeds(seed + ORDER_DOMAIN, epoch, numbers), kind="stable")
        flips = sample_seeds(seed + FLIP_DOMAIN, epoch, numbers) & 1
        yield from ((number, bool(flips[number])) for number in order.tolist())


def plain_batches(images: BoxSet, *, batch_size: int) -> Iterator[list[Sample]]:
    """Yield all images once, in their order, as they are."""
    items = [(number, False) for number in range(images.num_images)]
    batches = (items[start : start + batch_size] for start in range(0, len(items), batch_size))
    return _loaded(images, batches, with_masks=False)


def _loaded(
    images: BoxSet, batches: Iterable[list[tuple[int, bool]]], *, with_masks: bool
) -> Iterator[list[Sample]]:
    """Decode batches of (number of an image, whether it is flipped), one ahead of its use."""

    def load(number: int, flip: bool) -> Sample:
        picture = images.pictures[number]
        target = target_of(picture, images.class_names, with_masks=with_masks)
        return flipped(image_of(picture), target) if flip else (image_of(picture), target)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        waiting: list[Future[Sample]] = []
        try:
            for batch in chain(batches, [[]]):
                ready, waiting = waiting, [pool.submit(load, *item) for item in batch]
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
    assert pixels_HW3.shape[:2] == (picture.height, picture.width), picture.file
    return torch.from_numpy(pixels_HW3.copy()).permute(2, 0, 1)


def target_of(picture: Annotated, class_names: Sequence[str], *, with_masks: bool) -> Target:
    """The boxes to learn from; their labels are indices into the class names, from 1."""
    boxes = [box for box in picture.boxes if not box.ignored]
    corners = np.array([box.box for box in boxes], dtype=np.float32).reshape(-1, 4)
    labels = np.array([class_names.index(box.name) + 1 for box in boxes], dtype=np.int64)
    target = {"boxes": torch.from_numpy(corners), "labels": torch.from_numpy(labels)}
    if with_masks:
        size = (picture.height, picture.width)
        masks = [outline_mask(box.outline, *size) for box in boxes]
        target["masks"] = torch.from_numpy(np.array(masks, np.uint8).reshape(-1, *size))
    return target


def flipped(image_3HW: Tensor, target: Target) -> Sample:
    """The mirror image, left for right, with its boxes and masks."""
    width = image_3HW.shape[-1]
    x0, y0, x1, y1 = target["boxes"].unbind(dim=1)
    mirrored = target | {"boxes": torch.stack((width - x1, y0, width - x0, y1), dim=1)}
    if "masks" in target:
        mirrored["masks"] = target["masks"].flip(-1)
    return image_3HW.flip(-1), mirrored
