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
from training.masking.config import MaskConfig
from training.masking.fills import Fill, UnmaskedView, filled, noise_std, sample_noise
from training.masking.foreground import foreground
from training.masking.masks import hard_negative_mask, masked_share, view_mask
from training.masking.released import released_foreground, shared_noise

NAMES = {View.QUERY: "query", View.KEY: "key"}


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


class _Batch:
    """Both views of a batch on their way to the encoders."""

    def __init__(self, batch: HostBatch, masks: MaskConfig, fill: Fill) -> None:
        self.batch, self.masks, self.fill = batch, masks, fill
        colours = (batch.query_colours, batch.key_colours)
        self.images = [
            augment_colours(_image01(batch.images_VBCHW[view]), colours[view]) for view in NAMES
        ]
        self.prepared = [fill.prepare(image) for image in self.images]
        marked = released_foreground if masks.released else foreground
        self.foreground_VBGG = marked(batch.saliency_VBGG, threshold=masks.foreground_threshold)
        self.steering_VBGG = (
            marked(batch.mask_saliency_VBGG, threshold=masks.foreground_threshold)
            if masks.strategy == "shuffled"
            else self.foreground_VBGG
        )
        self.true_VBGG = (
            foreground(batch.saliency_VBGG, threshold=masks.foreground_threshold)
            if masks.released
            else self.foreground_VBGG
        )
        self._values: dict[View, Tensor] = {}

    @property
    def size(self) -> int:
        return self.batch.images_VBCHW.shape[-1]

    def view_mask(self, view: View) -> Tensor:
        return view_mask(
            self.steering_VBGG[view],
            self.batch.saliency_VBGG[view],
            self.batch.masks[view],
            strategy=self.masks.strategy,
            view_size=self.size,
            high_pass=self.fill.high_pass,
            probability=self.masks.probability,
            show=self.masks.attmask.show,
            released=self.masks.released,
        )

    def negative_mask(self, view: int) -> Tensor:
        return hard_negative_mask(
            self.steering_VBGG[negative_source(view)],
            self.batch.masks[view],
            view_size=self.size,
            high_pass=self.fill.high_pass,
            released=self.masks.released,
        )

    def filled(self, source: View, view: int, mask_BCHW: Tensor) -> Tensor:
        """The view of that number: ``source``, filled where it is masked."""
        prepared = self.prepared[source]
        unmasked = UnmaskedView(prepared, self.images[source], partial(self._noise, view))
        if self.fill.high_pass:  # every view has noise of its own
            return self.fill.apply(unmasked, mask_BCHW)
        if source not in self._values:
            self._values[source] = self.fill.values(unmasked)
        return filled(prepared, self._values[source], mask_BCHW)

    def _noise(self, view: int) -> Tensor:
        if not self.masks.released:
            size = (self.images[0].shape[1], self.size, self.size)
            return sample_noise(self.batch.noise_seeds_B, view=view, size=size)
        noise_BCHW = shared_noise(
            self.batch.noise_seeds_B,
            self.batch.masks[view],
            view=view,
            view_size=self.size,
            grid=self.batch.saliency_VBGG.shape[-1],
        )
        return noise_BCHW.mul_(noise_std(view))


def _image01(image_BCHW: Tensor) -> Tensor:
    """Float images in [0, 1], channel by channel in memory: what colours and filters are fast on.

    Args:
        image_BCHW: uint8.
    """
    return image_BCHW.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


CACHED_BYTES = 3 << 20
"""On a CPU as many images are worked on at once as take so much as floats: what a core's cache
holds, so that a step from one operation to the next does not go through the memory."""


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
    images_BCHW = batch.images_VBCHW[View.QUERY]
    count, at_once = len(images_BCHW), max(1, CACHED_BYTES // (4 * images_BCHW[:1].numel()))
    # The published code makes one noise, and one hard negative, of a whole batch.
    if images_BCHW.device.type != "cpu" or masks.released or count <= at_once:
        return _build(batch, masks, fill, negatives)
    starts = range(0, count, at_once)
    parts = [
        _build(rows_of(batch, start, start + at_once), masks, fill, negatives) for start in starts
    ]
    return _joined(parts)


def _build(
    batch: HostBatch, masks: MaskConfig, fill: Fill, negatives: Sequence[int]
) -> EncoderInputs:
    views = _Batch(batch, masks, fill)
    telemetry = {"foreground_share": views.true_VBGG[View.QUERY].float().mean()}
    pixel_masks: dict[int, Tensor] = {}
    seen = list(views.prepared)
    for view in masks.masked_views:
        pixel_masks[view] = views.view_mask(view)
        if masks.strategy != "none":
            seen[view] = views.filled(view, view, pixel_masks[view])
        telemetry |= _shares(NAMES[view], [pixel_masks[view]], [views.true_VBGG[view]])

    cut: dict[View, tuple[Tensor, ...]] = {}
    for number in negatives:
        source = negative_source(number)
        pixel_masks[number] = views.negative_mask(number)
        image = views.filled(source, number, pixel_masks[number])
        # The published code encodes the first image of the batch only: `training.masking.released`.
        cut[source] = (*cut.get(source, ()), image[:1] if masks.released else image)
    if negatives:
        telemetry |= _shares(
            "negative",
            [pixel_masks[number] for number in negatives],
            [views.true_VBGG[negative_source(number)] for number in negatives],
        )
    return EncoderInputs(
        seen[View.QUERY], seen[View.KEY], cut, views.foreground_VBGG, pixel_masks, telemetry
    )


def _joined(parts: Sequence[EncoderInputs]) -> EncoderInputs:
    """The inputs of a batch from those of its parts; telemetry weighs by images."""
    first = parts[0]
    counts = [len(part.query_BCHW) for part in parts]
    return EncoderInputs(
        query_BCHW=torch.cat([part.query_BCHW for part in parts]),
        key_BCHW=torch.cat([part.key_BCHW for part in parts]),
        negatives={
            source: tuple(
                torch.cat(images)
                for images in zip(*(part.negatives[source] for part in parts), strict=True)
            )
            for source in first.negatives
        },
        foreground_VBGG=torch.cat([part.foreground_VBGG for part in parts], dim=1),
        masks={view: torch.cat([part.masks[view] for part in parts]) for view in first.masks},
        telemetry={
            name: torch.stack(
                [part.telemetry[name] * n for part, n in zip(parts, counts, strict=True)]
            ).sum()
            / sum(counts)
            for name in first.telemetry
        },
    )


def _shares(name: str, masks: Sequence[Tensor], foregrounds: Sequence[Tensor]) -> dict[str, Tensor]:
    """Masked shares of foreground and background, averaged over masks and images."""
    pairs = zip(masks, foregrounds, strict=True)
    shares = torch.stack([torch.stack(masked_share(*pair)).mean(dim=1) for pair in pairs])
    foreground_share, background_share = shares.mean(dim=0)
    return {
        f"{name}_masked_foreground": foreground_share,
        f"{name}_masked_background": background_share,
    }


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
