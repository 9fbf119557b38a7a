"""From a loader's batch to what the encoders see: colour, filter, masks and fills, on the device.

Shapes: V views (0 query, 1 key), B batch, C channels, H W pixels, G grid side.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.augment import augment_colours
from training.batch_rows import rows_of
from training.data.draws import View, negative_source
from training.data.stream import HostBatch
from training.masking.batch_masks import NAMES, masks_of
from training.masking.config import MaskConfig
from training.masking.fills import Fill, UnmaskedView, filled, noise_std, sample_noise
from training.masking.released import shared_noise
from training.planes import image01


class EncoderInputs(NamedTuple):
    """Two views and the hard negatives of every image, filtered and masked, with telemetry."""

    query_BCHW: Tensor
    key_BCHW: Tensor
    negatives: dict[View, tuple[Tensor, ...]]
    """Hard negatives by the view they are cut from, each [B, C, H, W], or [1, C, H, W] where one
    is that of the whole batch."""
    foreground_VBGG: Tensor
    """What the masks go by, except that `shuffled` goes by another image's."""
    masks: dict[int, Tensor]
    """Bool [B, C or 1, H, W], by the number of the view."""
    telemetry: dict[str, Tensor]
    """Shares of foreground and of masked foreground and background: scalars on the device."""
    weights_B: Tensor | None = None
    """What each image counts in the loss, with mean 1 over the *global* batch
    (`training.distributed.balanced_weights`); 0 for one that stands in for a damaged one. None:
    all count alike."""


def to_device(batch: HostBatch, device: torch.device) -> HostBatch:
    """Copies every tensor of a batch to ``device`` without waiting; words stay behind."""

    def moved(part: Any) -> Any:  # noqa: ANN401  (a tensor, or a tuple or dict of them)
        if isinstance(part, Tensor):
            return part.to(device, non_blocking=True)
        if part is None:
            return None
        if isinstance(part, dict):
            return {name: moved(value) for name, value in part.items()}
        return type(part)(*map(moved, part))

    moved_batch = moved(batch._replace(damages=()))
    assert isinstance(moved_batch, HostBatch)
    return moved_batch


class _Images:
    """Both views of some images of a batch on their way to the encoders."""

    def __init__(self, batch: HostBatch, masks: MaskConfig, fill: Fill) -> None:
        self.batch, self.masks, self.fill = batch, masks, fill
        colours = (batch.query_colours, batch.key_colours)
        self.images = [
            augment_colours(image01(batch.images_VBCHW[view]), colours[view]) for view in NAMES
        ]
        self.prepared = [fill.prepare(image) for image in self.images]
        self._values: dict[View, Tensor] = {}

    def filled(self, source: View, view: int, mask_BCHW: Tensor) -> Tensor:
        """The view of that number: ``source``, filled where it is masked."""
        prepared = self.prepared[source]
        noise = partial(self._noise, view, mask_BCHW)
        unmasked = UnmaskedView(prepared, self.images[source], noise)
        if self.fill.high_pass:  # every view has noise of its own
            return self.fill.apply(unmasked, mask_BCHW)
        if source not in self._values:
            self._values[source] = self.fill.values(unmasked)
        return filled(prepared, self._values[source], mask_BCHW)

    def _noise(self, view: int, mask_BCHW: Tensor) -> Tensor:
        size = self.batch.images_VBCHW.shape[-1]
        if not self.masks.released:
            seeds_B, shape = self.batch.noise_seeds_B, (self.images[0].shape[1], size, size)
            return sample_noise(seeds_B, view=view, size=shape, where_BCHW=mask_BCHW)
        noise_BCHW = shared_noise(
            self.batch.noise_seeds_B,
            self.batch.masks[view],
            view=view,
            view_size=size,
            grid=self.batch.saliency_VBGG.shape[-1],
        )
        return noise_BCHW.mul_(noise_std(view))


CACHED_BYTES = 5 << 18
"""On a CPU as many images are worked on at once as take so much as floats: what a core's cache
holds beside what is made of them, so that a step from one operation to the next does not go
through the memory. Two of 224 px."""


@torch.no_grad()
def build_inputs(
    batch: HostBatch, *, masks: MaskConfig, fill: Fill, negatives: Sequence[int]
) -> EncoderInputs:
    """Colours both views, masks what the strategy masks, and cuts the hard negatives.

    Hard negatives are cut from the unmasked views. By default the key is never masked: masking the
    query alone wins with every fill (arXiv 2309.12757, ablation of the masked branch).

    Args:
        batch: on the device; has draws for every masked view and hard negative.
        masks: strategy and threshold; ratios were drawn by the loader.
        fill: what stands in masked patches.
        negatives: numbers of the views that are hard negatives (`draws.negative_view`).
    """
    found = masks_of(batch, masks, high_pass=fill.high_pass, negatives=negatives)
    images_BCHW = batch.images_VBCHW[View.QUERY]
    count, at_once = len(images_BCHW), max(1, CACHED_BYTES // (4 * images_BCHW[:1].numel()))
    # The published code makes one noise, and one hard negative, of a whole batch.
    if images_BCHW.device.type != "cpu" or masks.released or count <= at_once:
        made = _images(batch, found.masks, masks, fill, negatives)
    else:
        made = []
        for start in range(0, count, at_once):
            rows = slice(start, min(start + at_once, count))
            some = {view: mask_BCHW[rows] for view, mask_BCHW in found.masks.items()}
            part = _images(rows_of(batch, rows.start, rows.stop), some, masks, fill, negatives)
            made = made or [image.new_empty((count, *image.shape[1:])) for image in part]
            for whole, image in zip(made, part, strict=True):
                whole[rows] = image
    query_BCHW, key_BCHW, *cut = made
    by_source: dict[View, tuple[Tensor, ...]] = {}
    for number, image in zip(negatives, cut, strict=True):
        source = negative_source(number)
        by_source[source] = (*by_source.get(source, ()), image)
    return EncoderInputs(
        query_BCHW, key_BCHW, by_source, found.foreground_VBGG, found.masks, found.telemetry
    )


def _images(
    batch: HostBatch,
    pixel_masks: dict[int, Tensor],
    masks: MaskConfig,
    fill: Fill,
    negatives: Sequence[int],
) -> list[Tensor]:
    """Query, key and the hard negatives, as the encoders see them."""
    views = _Images(batch, masks, fill)
    seen = list(views.prepared)
    if masks.strategy != "none":
        for view in masks.masked_views:
            seen[view] = views.filled(view, view, pixel_masks[view])
    for number in negatives:
        image = views.filled(negative_source(number), number, pixel_masks[number])
        # The published code encodes the first image of the batch only: `training.masking.released`.
        seen.append(image[:1] if masks.released else image)
    return seen


def carrying_masks(
    inputs: EncoderInputs, carry: Callable[[Tensor, Tensor], Tensor]
) -> EncoderInputs:
    """The inputs with every view's mask on board, for a network that sees it.

    Views without a mask get an empty one, so that all have the same number of channels.

    Args:
        inputs: from ``build_inputs``.
        carry: view and bool mask, [B, C or 1, H, W], to what the network takes.
    """
    empty: Tensor | None = None

    def carried(image_BCHW: Tensor, view: int) -> Tensor:
        nonlocal empty
        mask_BCHW = inputs.masks.get(view)
        if mask_BCHW is None:
            if empty is None:
                shape = next(iter(inputs.masks.values()), image_BCHW[:, :1]).shape
                empty = torch.zeros(shape, dtype=torch.bool, device=image_BCHW.device)
            mask_BCHW = empty
        return carry(image_BCHW, mask_BCHW[: len(image_BCHW)])

    numbers = [view for view in inputs.masks if view >= View.NEGATIVE]
    negatives = {
        source: tuple(
            carried(image, view)
            for image, view in zip(
                images, (v for v in numbers if negative_source(v) == source), strict=True
            )
        )
        for source, images in inputs.negatives.items()
    }
    return inputs._replace(
        query_BCHW=carried(inputs.query_BCHW, View.QUERY),
        key_BCHW=carried(inputs.key_BCHW, View.KEY),
        negatives=negatives,
    )
