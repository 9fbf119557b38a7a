"""What is masked in a batch: its foreground, the mask of every view, and what is logged of them.

Shapes: V views (0 query, 1 key), B batch, C channels, G grid side, H W pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from training.data.draws import View, negative_source
from training.data.host_batch import HostBatch
from training.masking.config import MaskConfig
from training.masking.foreground import foreground
from training.masking.masks import hard_negative_mask, masked_share, view_mask
from training.masking.released import released_foreground

NAMES = {View.QUERY: "query", View.KEY: "key"}


class BatchMasks(NamedTuple):
    """The masks of a batch."""

    foreground_VBGG: Tensor
    """What the masks go by, except that `shuffled` goes by another image's."""
    masks: dict[int, Tensor]
    """Bool [B, C or 1, H, W], by the number of the view: masked views, then hard negatives."""
    telemetry: dict[str, Tensor]
    """Shares of foreground and of masked foreground and background: scalars on the device."""


def masks_of(
    batch: HostBatch, config: MaskConfig, *, high_pass: bool, negatives: Sequence[int]
) -> BatchMasks:
    """Masks what the strategy masks, and the hard negatives.

    Args:
        batch: on the device; has draws for every masked view and hard negative.
        config: strategy and threshold.
        high_pass: whether the masks are for the high-pass fill.
        negatives: numbers of the views that are hard negatives (`draws.negative_view`).
    """
    size, threshold = batch.images_VBCHW.shape[-1], config.foreground_threshold
    marked = released_foreground if config.released else foreground
    foreground_VBGG = marked(batch.saliency_VBGG, threshold=threshold)
    steering_VBGG = (
        marked(batch.mask_saliency_VBGG, threshold=threshold)
        if config.strategy == "shuffled"
        else foreground_VBGG
    )
    true_VBGG = (
        foreground(batch.saliency_VBGG, threshold=threshold) if config.released else foreground_VBGG
    )
    masks: dict[int, Tensor] = {
        view: view_mask(
            steering_VBGG[view],
            batch.saliency_VBGG[view],
            batch.masks[view],
            strategy=config.strategy,
            view_size=size,
            high_pass=high_pass,
            probability=config.probability,
            show=config.attmask.show,
            released=config.released,
        )
        for view in config.masked_views
    }
    telemetry = {"foreground_share": true_VBGG[View.QUERY].float().mean()}
    for view, mask_BCHW in masks.items():
        telemetry |= _shares(NAMES[View(view)], [mask_BCHW], [true_VBGG[view]])
    for number in negatives:
        masks[number] = hard_negative_mask(
            steering_VBGG[negative_source(number)],
            batch.masks[number],
            view_size=size,
            high_pass=high_pass,
            released=config.released,
        )
    if negatives:
        sources = [true_VBGG[negative_source(number)] for number in negatives]
        telemetry |= _shares("negative", [masks[number] for number in negatives], sources)
    return BatchMasks(foreground_VBGG, masks, telemetry)


def _shares(name: str, masks: Sequence[Tensor], foregrounds: Sequence[Tensor]) -> dict[str, Tensor]:
    """Masked shares of foreground and background, averaged over masks and images."""
    pairs = zip(masks, foregrounds, strict=True)
    shares = torch.stack([torch.stack(masked_share(*pair)).mean(dim=1) for pair in pairs])
    foreground_share, background_share = shares.mean(dim=0)
    return {
        f"{name}_masked_foreground": foreground_share,
        f"{name}_masked_background": background_share,
    }
