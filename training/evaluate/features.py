"""From images to views, and to the features of a frozen network.

Shapes: B batch, C channels, H W pixels, S side of the view, G grid side, M images, D features.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.core.errors import DamagedSample, check
from pipeline.core.progress import track
from pipeline.images.preprocessing import centre_view, resize_and_crop
from training.core.distributed import gather_rows_of_any_number, rank, world_size
from training.evaluate.labelled import LabelledImages
from training.randomness.draws import KEY, QUERY, sample_seeds, view_number
from training.views.colours import ColourDraws, augment_colours, draw_colours
from training.views.crops import Crops, cut_crops, pool_saliency
from training.views.settings import AugmentConfig, ViewConfig

Features = tuple[Tensor, Tensor]
"""Features float32 [M, D], not normalised, and labels int64 [M]."""
Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
View = tuple[NDArray[np.uint8], int]
"""uint8 [S, S, 3] and its label."""
Batch = tuple[Tensor, Tensor]
"""Views uint8 [B, 3, S, S] and labels int64 [B]."""
CPU = torch.device("cpu")
CPU_ROWS = 32
"""Images that go through a network at once on a CPU. The activations of more leave its caches:
a five-layer ConvNet of width 48 took 1.4 ms an image of 48 px in 32s, and 2.1 ms in 256s."""


@dataclass(frozen=True, kw_only=True)
class FeatureExtractor:
    """A network with all that it takes to turn images into its features.

    Attributes:
        network: [B, 3, S, S] -> [B, D], on `device`.
        prepare: views in [0, 1] -> what the network wants (normalised, filtered).
        device: that computes.
        view_size: S.
        resize: length of the shorter side before the centre crop, in pixels.
        batch_size: B.
        num_threads: that decode.
        autocast_dtype: compute in this type, bfloat16 say; none: in the weights' own.
        skip_damaged: leave out images that are damaged, instead of raising.
    """

    network: nn.Module
    prepare: Callable[[Tensor], Tensor]
    device: torch.device
    view_size: int
    resize: int
    batch_size: int = 256
    num_threads: int = 1
    autocast_dtype: torch.dtype | None = None
    skip_damaged: bool = False

    def view(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The test-time view (`centre_view`) of an RGB image [H, W, 3]: uint8 [S, S, 3]."""
        image_CHW = torch.from_numpy(image).permute(2, 0, 1)
        view_CSS = centre_view(image_CHW, self.resize, self.view_size)
        return np.ascontiguousarray(view_CSS.permute(1, 2, 0).numpy())

    def batches(self, images: LabelledImages, numbers: Sequence[int]) -> Iterator[Batch]:
        """Test-time views of images, by their numbers."""
        labels = images.labels()

        def load(number: int) -> View | None:
            try:
                return self.view(images.image(number)), int(labels[number])
            except DamagedSample:
                if not self.skip_damaged:
                    raise
                return None

        starts = range(0, len(numbers), self.batch_size)
        batches = (numbers[start : start + self.batch_size] for start in starts)
        return loaded_batches(batches, load, num_threads=self.num_threads)

    def __call__(self, views_BCHW: Tensor) -> Tensor:
        """Views, uint8, through the network: [B, D] on `device`, with gradients where enabled."""
        return self.forward(to_unit_range(views_BCHW, self.device))

    def forward(self, image01_BCHW: Tensor) -> Tensor:
        """Views in [0, 1] through preparation and network."""
        # Not under autocast: a filter in bfloat16 would lose what it is to keep.
        return self.forward_prepared(self.prepare(image01_BCHW))

    def forward_prepared(self, x_BCHW: Tensor) -> Tensor:
        """Prepared views through the network."""
        # Views in channels-last only: other strides for the weights of a network that is still
        # being trained would change its next step in the last bits.
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        enabled = self.autocast_dtype is not None
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=enabled):
            features_BD: Tensor = self.network(x_BCHW)
        return features_BD

    def extract(self, batches: Iterable[Batch]) -> Features:
        """Features and labels of batches, on the CPU, in evaluation mode, without gradient.

        Weights, statistics and the mode of every module are afterwards what they were.

        Raises:
            InputError: no batch at all, or features that are not finite.
        """
        features: list[Tensor] = []
        labels: list[Tensor] = []
        with evaluation_mode(self.network), torch.inference_mode():
            for views_BCHW, labels_B in batches:
                rows = CPU_ROWS if self.device.type == "cpu" else len(views_BCHW)
                features += [self(views).float().cpu() for views in views_BCHW.split(rows)]
                labels.append(labels_B)
        check(bool(features), "there are no images to take features of")
        # Outside of inference mode, so that what comes out may take part in a gradient (the probe).
        features_MD = torch.cat(features)
        check(
            bool(torch.isfinite(features_MD).all()),
            "the features are not finite: the weights have diverged or are damaged",
        )
        return features_MD, torch.cat(labels)

    def features(self, images: LabelledImages) -> Features:
        """`extract` of a whole set, in its order, the features on `device`.

        Called by every rank: each computes one stretch of the images, and all get the whole.
        """
        first, last = (images.num_images * (rank() + i) // world_size() for i in (0, 1))
        batches = self.batches(images, range(first, last))
        work = f"features of {Path(str(images.root)).name}"
        shown = track(batches, work, last - first, "images", size=lambda batch: len(batch[1]))
        features_MD, labels_M = (gather_rows_of_any_number(x) for x in self.extract(shown))
        return features_MD.to(self.device), labels_M

    def two_views(
        self, images: LabelledImages, numbers_M: NDArray[np.int64], *, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Features of two augmented views of each image (MoCo v2's crops and colours): [M, D]."""
        config = ViewConfig(size=self.view_size, grid=1)
        parts: dict[str, list[Tensor]] = {QUERY: [], KEY: []}
        for batch in in_batches(numbers_M, self.batch_size):
            pictures = [images.image(int(number)) for number in batch]
            seeds_B = sample_seeds(seed, 0, batch)
            for name, features in parts.items():
                pixels_BSS3, _ = cut_crops(pictures, seeds_B, names=(name,), config=config)
                image01_BCSS = coloured(pixels_BSS3, seeds_B, name, self.device)
                features.append(self.forward(image01_BCSS).float().cpu())
        return torch.cat(parts[QUERY]), torch.cat(parts[KEY])

    def centre_views(
        self, images: LabelledImages, numbers_B: NDArray[np.int64], *, grid: int
    ) -> tuple[Tensor, Tensor | None]:
        """Test-time views, float [B, 3, S, S] in [0, 1], and their saliency [B, G, G], if any."""
        pictures = [images.image(int(number)) for number in numbers_B]
        views_BSS3 = torch.from_numpy(np.stack([self.view(picture) for picture in pictures]))
        image01_BCSS = to_unit_range(views_BSS3.permute(0, 3, 1, 2), self.device)
        if images.saliency_source is None:
            return image01_BCSS, None
        maps_BPP = np.stack([images.saliency(int(number)) for number in numbers_B])
        heights, widths = (np.array([p.shape[side] for p in pictures]) for side in (0, 1))
        boxes = view_boxes(heights, widths, self.resize, self.view_size)
        pooled_BGG = pool_saliency(maps_BPP, boxes, grid)
        return image01_BCSS, torch.from_numpy(pooled_BGG)


def coloured(
    pixels_BSS3: NDArray[np.uint8],
    seeds_B: NDArray[np.uint64],
    name: str,
    device: torch.device = CPU,
) -> Tensor:
    """Crops with MoCo v2's colours as drawn for a view, float [B, 3, S, S] in [0, 1]."""
    config, size = AugmentConfig(), pixels_BSS3.shape[1]
    draws = draw_colours(
        seeds_B,
        view=view_number(name),
        config=config,
        view_size=size,
        channels=pixels_BSS3.shape[-1],
    )
    on_device = ColourDraws(*(part.to(device) for part in draws))
    pixels_BCSS = torch.from_numpy(pixels_BSS3).permute(0, 3, 1, 2)
    return augment_colours(to_unit_range(pixels_BCSS, device), on_device)


def view_boxes(
    heights_B: NDArray[np.int64], widths_B: NDArray[np.int64], resize: int, size: int
) -> Crops:
    """The test-time view's box in each image, to whole pixels."""
    boxes = []
    for height, width in zip(heights_B.tolist(), widths_B.tolist(), strict=True):
        resized, corner = resize_and_crop(height, width, resize, size)
        scale = (height / resized[0], width / resized[1])
        boxes.append([corner[0] * scale[0], corner[1] * scale[1], size * scale[0], size * scale[1]])
    top, left, tall, wide = np.rint(np.array(boxes)).astype(np.int64).T
    still = np.zeros(len(boxes), dtype=np.bool_)
    return Crops(top, left, tall, wide, still, heights_B, widths_B)


def to_unit_range(views_BCHW: Tensor, device: torch.device) -> Tensor:
    """Views, uint8, as float in [0, 1] on a device."""
    return views_BCHW.to(device, non_blocking=True).float().div_(255)


def in_batches(
    numbers_M: NDArray[np.int64], size: int, work: str = "diagnostics"
) -> Iterator[NDArray[np.int64]]:
    """The numbers, so many at once; reports progress of that work."""
    batches = (numbers_M[first : first + size] for first in range(0, len(numbers_M), size))
    return track(batches, work, len(numbers_M), "images", size=len)


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put all modules in evaluation mode, and back into their own modes at the end."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def loaded_batches(
    batches: Iterable[Sequence[Item]], load: Callable[[Item], View | None], *, num_threads: int
) -> Iterator[Batch]:
    """Load views ahead of use (`loaded_ahead`); `load` gives None to leave one out."""
    for loaded in loaded_ahead(batches, load, num_threads=num_threads):
        if some := [view for view in loaded if view is not None]:
            views, labels = zip(*some, strict=True)
            views_BHWC = torch.from_numpy(np.stack(views))
            yield views_BHWC.permute(0, 3, 1, 2), torch.tensor(labels, dtype=torch.int64)


def loaded_ahead(
    batches: Iterable[Sequence[Item]], load: Callable[[Item], Loaded], *, num_threads: int
) -> Iterator[list[Loaded]]:
    """Load the items of batches in threads, one batch ahead of use."""
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: list[Future[Loaded]] = []
        try:
            for batch in chain(batches, [()]):
                ready, waiting = waiting, [pool.submit(load, item) for item in batch]
                if ready:
                    yield [future.result() for future in ready]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
