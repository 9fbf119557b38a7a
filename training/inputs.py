"""From a loader's batch to what the encoders see: colour, filter, masks and fills, on the device.

Shapes: V views (0 query, 1 key), B batch, C channels, H W pixels, G grid side.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.augment import augment_colours
from training.draws import View
from training.fills import Fill, UnmaskedView
from training.foreground import foreground
from training.masks import MaskConfig, hard_negative_mask, masked_share, query_mask
from training.stream import HostBatch


class EncoderInputs(NamedTuple):
    """Two views and a hard negative of every image, filtered and masked, with telemetry."""

    query_BCHW: Tensor
    key_BCHW: Tensor
    hard_negative_BCHW: Tensor | None
    foreground_VBGG: Tensor
    query_mask_BCHW: Tensor
    negative_mask_BCHW: Tensor | None
    telemetry: dict[str, Tensor]
    """Shares of foreground and of masked foreground and background: scalars on the device."""


def to_device(batch: HostBatch, device: torch.device) -> HostBatch:
    """Copies every tensor of a batch to ``device`` without waiting for it."""

    def moved(part: Any) -> Any:  # noqa: ANN401  (a tensor, or a tuple of draws)
        if isinstance(part, Tensor):
            return part.to(device, non_blocking=True)
        return type(part)(*(tensor.to(device, non_blocking=True) for tensor in part))

    return HostBatch(*map(moved, batch))


@torch.no_grad()
def build_inputs(
    batch: HostBatch, *, masks: MaskConfig, fill: Fill, hard_negatives: bool
) -> EncoderInputs:
    """Colours both views, masks the query, and cuts the hard negative from the key view.

    The key itself is never masked: masking the query alone wins with every fill (arXiv 2309.12757,
    ablation of the masked branch).

    Args:
        batch: on the device.
        masks: strategy and threshold; ratios were drawn by the loader.
        fill: what stands in masked patches.
        hard_negatives: whether to build the hard negatives.
    """
    size = batch.images_VBCHW.shape[-1]
    images = [
        augment_colours(batch.images_VBCHW[view].float() / 255, colours)
        for view, colours in ((View.QUERY, batch.query_colours), (View.KEY, batch.key_colours))
    ]
    prepared = [fill.prepare(image) for image in images]
    own_VBGG = foreground(batch.saliency_VBGG, threshold=masks.foreground_threshold)
    steering_VBGG = (
        foreground(batch.mask_saliency_VBGG, threshold=masks.foreground_threshold)
        if masks.strategy == "shuffled"
        else own_VBGG
    )

    query_mask_BCHW = query_mask(
        steering_VBGG[View.QUERY],
        batch.query_masks,
        strategy=masks.strategy,
        view_size=size,
        high_pass=fill.high_pass,
    )
    query = prepared[View.QUERY]
    if masks.strategy != "none":
        unmasked = UnmaskedView(query, images[View.QUERY], batch.noise_seeds_B, View.QUERY)
        query = fill.apply(unmasked, query_mask_BCHW)
    shares_B = masked_share(query_mask_BCHW, own_VBGG[View.QUERY])
    telemetry = {
        "foreground_share": own_VBGG[View.QUERY].float().mean(),
        "query_masked_foreground": shares_B[0].mean(),
        "query_masked_background": shares_B[1].mean(),
    }

    negative = negative_mask = None
    if hard_negatives:
        negative_mask = hard_negative_mask(
            steering_VBGG[View.KEY], batch.negative_masks, view_size=size, high_pass=fill.high_pass
        )
        unmasked = UnmaskedView(
            prepared[View.KEY], images[View.KEY], batch.noise_seeds_B, View.NEGATIVE
        )
        negative = fill.apply(unmasked, negative_mask)
        shares_B = masked_share(negative_mask, own_VBGG[View.KEY])
        telemetry["negative_masked_foreground"] = shares_B[0].mean()
        telemetry["negative_masked_background"] = shares_B[1].mean()
    return EncoderInputs(
        query, prepared[View.KEY], negative, own_VBGG, query_mask_BCHW, negative_mask, telemetry
    )
