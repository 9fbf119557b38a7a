"""What the loader benchmark measures, one call a batch: this project's arms and the usual ones.

All arms are given the same JPEGs. The usual ones get their bytes for nothing and no saliency; ours
read theirs from a shard by offset, decode and pool the saliency and draw masks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from pipeline.images.codecs import decode_stored
from pipeline.images.filters import IMAGENET_MEAN, IMAGENET_STD
from tests.training.views.made import KEY_VIEW, QUERY_VIEW, built, dataset_of, settings_of, views_of
from training.data.stream import BatchDataset
from training.randomness.draws import sample_seeds
from training.views.crops import cut_views, draw_crops
from training.views.settings import ViewConfig

VIEW_SIZE, GRID = 224, 7
Arm = Callable[[int], object]
"""Does the work of the batch of that number."""


def photographs(folder: Path, count: int, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Photographs spread over a folder, made that wide and high, RGB."""
    paths = sorted(folder.rglob("*.jpg"))
    images = [decode_stored(p.read_bytes()) for p in paths[:: max(1, len(paths) // count)][:count]]
    assert len(images) == count, f"{folder} holds too few photographs"
    return [np.asarray(cv2.resize(i, size, interpolation=cv2.INTER_CUBIC)) for i in images]


def smooth_maps(count: int) -> list[NDArray[np.float32]]:
    """Saliency that a PNG cannot shrink much: blurred noise."""
    noise = np.random.default_rng(0).random((count, 56, 56), dtype=np.float32)
    return [np.asarray(cv2.GaussianBlur(one, (15, 15), 3.0)) for one in noise]


def our_dataset(root: Path, batch_size: int) -> BatchDataset:
    """The loader at 224 px with the paper's masks and one hard negative."""
    views = views_of(settings_of(size=VIEW_SIZE, grid=GRID))
    return dataset_of(root, views, seed=0, batch_size=batch_size)


def our_inputs(dataset: BatchDataset, fill: str, number: int) -> object:
    """Loader and everything that is batched, up to what the encoders take."""
    settings = settings_of(fill, size=VIEW_SIZE, grid=GRID)
    return built(dataset[number], views_of(settings), settings)


def decode_only(jpegs: Sequence[bytes], batch_size: int, number: int) -> object:
    """Decodes a batch with the decoder that this project uses."""
    return [decode_stored(jpeg) for jpeg in batch_of(jpegs, batch_size, number)]


def decode_and_cut(jpegs: Sequence[bytes], batch_size: int, number: int) -> object:
    """What no loader of two views gets by without: decodes a batch and cuts both crops."""
    images = [decode_stored(jpeg) for jpeg in batch_of(jpegs, batch_size, number)]
    seeds_B = sample_seeds(0, number, np.arange(len(images)))
    heights_B = np.array([image.shape[0] for image in images], dtype=np.int64)
    widths_B = np.array([image.shape[1] for image in images], dtype=np.int64)
    cut = np.empty((2, len(images), VIEW_SIZE, VIEW_SIZE, 3), dtype=np.uint8)
    for view in (QUERY_VIEW, KEY_VIEW):
        config = ViewConfig(size=VIEW_SIZE, grid=GRID)
        crops = draw_crops(seeds_B, heights_B, widths_B, view=view, config=config)
        cut_views(images, crops, cut[view])
    return cut


def batch_of(jpegs: Sequence[bytes], batch_size: int, number: int) -> Sequence[bytes]:
    """The bytes of a batch, round and round."""
    start = number * batch_size % len(jpegs)
    return jpegs[start : start + batch_size]


class _MocoBlur:
    """The blur of the published MoCo v2 code: Pillow's, which is faster than torchvision's."""

    def __call__(self, image: Image.Image) -> Image.Image:
        sigma = float(torch.empty(()).uniform_(0.1, 2.0))
        return image.filter(ImageFilter.GaussianBlur(radius=sigma))


def usual_transform() -> v2.Compose:
    """MoCo v2's augmentation of one image by torchvision, on Pillow images, normalised."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(VIEW_SIZE, scale=(0.2, 1.0)),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([_MocoBlur()], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def usual_views(
    jpegs: Sequence[bytes],
    batch_size: int,
    transform: Callable[[Image.Image], Tensor],
    finish: Callable[[Tensor], Sequence[Tensor]],
    number: int,
) -> object:
    """Decodes with Pillow and makes both views, image by image; stacks them as a loader does."""
    made: list[Sequence[Tensor]] = []
    for jpeg in batch_of(jpegs, batch_size, number):
        image = Image.open(BytesIO(jpeg)).convert("RGB")
        made += [finish(transform(image)) for _ in range(2)]
    return [torch.stack(parts) for parts in zip(*made, strict=True)]


def plain(image01: Tensor) -> Sequence[Tensor]:
    """Normalised."""
    return (tv.normalize(image01, list(IMAGENET_MEAN), list(IMAGENET_STD)),)


def with_high_pass(image01: Tensor) -> Sequence[Tensor]:
    """Normalised and high-passed with kernel 11, sigma 5."""
    (normalised,) = plain(image01)
    return (normalised - tv.gaussian_blur(normalised, [11, 11], [5.0, 5.0]),)


def with_strong_blur(image01: Tensor) -> Sequence[Tensor]:
    """Normalised, with a copy blurred with kernel 31, sigma 10 to fill masks from."""
    blurred = tv.gaussian_blur(image01, [31, 31], [10.0, 10.0])
    return (*plain(image01), *plain(blurred))


def usual_arms(jpegs: Sequence[bytes], batch_size: int) -> dict[str, Arm]:
    """The usual per-sample pipeline, its two filtered variants, and lightly's where it is."""
    transform = usual_transform()
    arms: dict[str, Arm] = {
        name: partial(usual_views, jpegs, batch_size, transform, finish)
        for name, finish in (
            ("plain", plain),
            ("high-pass", with_high_pass),
            ("strong blur", with_strong_blur),
        )
    }
    try:
        transforms = import_module("lightly.transforms")
    except ImportError:
        return arms
    lightly = transforms.MoCoV2Transform(input_size=VIEW_SIZE)

    def lightly_views(number: int) -> object:
        images = [
            Image.open(BytesIO(j)).convert("RGB") for j in batch_of(jpegs, batch_size, number)
        ]
        return [torch.stack(views) for views in zip(*map(lightly, images), strict=True)]

    return {**arms, "lightly": lightly_views}
