"""From labelled images to batches of views, and to the features of a frozen backbone.

Shapes: B batch, S side of the view, M images, D features.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.core.errors import DamagedSample, InputError
from pipeline.core.progress import track
from training.core.distributed import gather_rows_of_any_number, rank, world_size
from training.evaluate.features import evaluation_view, extract_features
from training.evaluate.labelled import LabelledImages

Prepare = Callable[[torch.Tensor], torch.Tensor]
Features = tuple[torch.Tensor, torch.Tensor]
Item = TypeVar("Item")
View = tuple[NDArray[np.uint8], int]
"""uint8 [S, S, 3] and its label."""


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """How images become features.

    Attributes:
        view_size: S, side of the view.
        resize: length of the shorter side before the centre crop; none: 256/224 of the view.
        batch_size: B.
        num_threads: that decode.
        autocast_dtype: compute in this type; none: in the weights' own.
        skip_damaged: leave out images that are damaged, instead of raising.
    """

    view_size: int
    resize: int | None = None
    batch_size: int = 256
    num_threads: int = 1
    autocast_dtype: torch.dtype | None = None
    skip_damaged: bool = False

    def __post_init__(self) -> None:
        if min(self.view_size, self.batch_size, self.num_threads) < 1:
            raise InputError(
                f"view_size {self.view_size}, batch_size {self.batch_size}, num_threads "
                f"{self.num_threads}: wanted at least 1 each"
            )

    def batches(
        self, images: LabelledImages, numbers: Sequence[int]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Test-time views of images, by their numbers, as `view_batches` gives them."""
        labels = images.labels()

        def load(number: int) -> View | None:
            try:
                image = images.image(number)
            except DamagedSample:
                if self.skip_damaged:
                    return None
                raise
            return evaluation_view(image, self.view_size, self.resize), int(labels[number])

        batches = [
            numbers[i : i + self.batch_size] for i in range(0, len(numbers), self.batch_size)
        ]
        return view_batches(batches, load, num_threads=self.num_threads)


def features_of(
    backbone: nn.Module,
    images: LabelledImages,
    config: ExtractConfig,
    *,
    prepare: Prepare,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> Features:
    """Features of a set's images, in their order.

    With several ranks each takes one stretch of the images; put together in the order of the
    ranks they are the whole. Arguments, results and errors as in `extract_features`.
    """
    first = images.num_images * rank // world_size
    last = images.num_images * (rank + 1) // world_size
    return extract_features(
        backbone,
        track(
            config.batches(images, range(first, last)),
            f"features of {Path(str(images.root)).name}",
            last - first,
            "images",
            size=lambda batch: len(batch[1]),
        ),
        device=device,
        prepare=prepare,
        autocast_dtype=config.autocast_dtype,
    )


def gathered_features(
    backbone: nn.Module,
    images: LabelledImages,
    config: ExtractConfig,
    *,
    prepare: Prepare,
    device: torch.device,
) -> Features:
    """`features_of`, the work split over the ranks; each of them gets the whole, on `device`."""
    parts = features_of(
        backbone,
        images,
        config,
        prepare=prepare,
        device=device,
        rank=rank(),
        world_size=world_size(),
    )
    features_MD, labels_M = (gather_rows_of_any_number(part) for part in parts)
    return features_MD.to(device), labels_M


def view_batches(
    batches: Iterable[Sequence[Item]], load: Callable[[Item], View | None], *, num_threads: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Views uint8 [B, 3, S, S] and labels int64 [B], loaded one batch ahead of use.

    Args:
        batches: of whatever names a view.
        load: makes the view; None: it is left out. Called in threads.
        num_threads: how many.
    """
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: list[Future[View | None]] = []
        try:
            for batch in chain(batches, [()]):
                ready, waiting = waiting, [pool.submit(load, item) for item in batch]
                loaded = [view for future in ready if (view := future.result()) is not None]
                if loaded:
                    views, labels = zip(*loaded, strict=True)
                    views_BHWC = torch.from_numpy(np.stack(views))
                    yield views_BHWC.permute(0, 3, 1, 2), torch.tensor(labels, dtype=torch.int64)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
