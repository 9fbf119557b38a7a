"""What is masked in a batch: its foreground, the mask of every view, and what is logged of them.

Shapes: V views (0 query, 1 key), B batch, C channels, G grid side, H W pixels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.saliency.foreground import foreground
from training.randomness.draws import View, negative_source
from training.views.exchange import Exchange, donor_patches
from training.views.host_batch import HostBatch
from training.views.mask_config import MaskConfig
from training.views.masks import hard_negative_mask, masked_share, view_mask
from training.views.patches import patches_to_pixels
from training.views.released import released_foreground

NAMES = {View.QUERY: "query", View.KEY: "key"}


class BatchMasks(NamedTuple):
    """The masks of a batch."""

    foreground_VBGG: Tensor
    """What the masks go by, except that `shuffled` goes by another image's."""
    masks: dict[int, Tensor]
    """Bool [B, C or 1, H, W], by the number of the view: masked views, then hard negatives."""
    telemetry: dict[str, Tensor]
    """Shares of foreground and of masked foreground and background: scalars on the device."""
    exchange: Exchange | None = None
    """How the queries' backgrounds are exchanged, where they are."""


def masks_of(
    batch: HostBatch,
    config: MaskConfig,
    *,
    high_pass: bool,
    negatives: Sequence[int],
    exchange: float | None = None,
) -> BatchMasks:
    """Masks what the strategy masks, and the hard negatives.

    Args:
        batch: on the device; has draws for every masked view and hard negative.
        config: strategy and threshold.
        high_pass: whether the masks are for the high-pass fill.
        negatives: numbers of the views that are hard negatives (`draws.negative_view`).
        exchange: share of the queries of which a method wants a copy on another background; None:
            it wants none.
    """
    size = batch.images_VBCHW.shape[-1]
    rule, threshold = config.foreground, config.foreground_threshold

    def plain(saliency: Tensor) -> Tensor:
        return foreground(saliency, rule=rule, threshold=threshold)

    def marked(saliency: Tensor) -> Tensor:
        if config.released:
            return released_foreground(saliency, rule=rule, threshold=threshold)
        return plain(saliency)

    matched = config.count == "matched"
    foreground_VBGG = marked(batch.saliency_VBGG)
    steering_VBGG = (
        marked(batch.mask_saliency_VBGG) if config.strategy == "shuffled" else foreground_VBGG
    )
    true_VBGG = plain(batch.saliency_VBGG) if config.released else foreground_VBGG
    masks: dict[int, Tensor] = {
        view: view_mask(
            steering_VBGG[view],
            batch.saliency_VBGG[view],
            batch.masks[view],
            strategy=config.strategy,
            view_size=size,
            high_pass=high_pass,
            probability=config.masked_share,
            show=config.attmask.show,
            released=config.released,
            matched=matched,
        )
        for view in config.masked_views
    }
    query_BGG = true_VBGG[View.QUERY]
    telemetry = {
        "foreground_share": query_BGG.float().mean(),
        "all_foreground": query_BGG.flatten(1).all(dim=1).float().mean(),
    }
    found = None
    if batch.exchange is not None:
        found = _exchange(batch, foreground_VBGG[View.QUERY], marked, exchange)
        if config.strategy == "exchange" and config.exchange == "swap":
            masks[View.QUERY] = masks[View.QUERY] & found.possible_B[:, None, None, None]
        if found.mask_B1HW is not None:
            telemetry["exchanged_share"] = found.mask_B1HW.float().mean()
    for view, mask_BCHW in masks.items():
        telemetry |= _shares(NAMES[View(view)], [mask_BCHW], [true_VBGG[view]])
    for number in negatives:
        masks[number] = hard_negative_mask(
            steering_VBGG[negative_source(number)],
            batch.masks[number],
            view_size=size,
            high_pass=high_pass,
            patches=config.negative_patches,
            released=config.released,
            matched=matched,
        )
    if negatives:
        sources = [true_VBGG[negative_source(number)] for number in negatives]
        telemetry |= _shares("negative", [masks[number] for number in negatives], sources)
    return BatchMasks(foreground_VBGG, masks, telemetry, found)


def _exchange(
    batch: HostBatch,
    foreground_BGG: Tensor,
    marked: Callable[[Tensor], Tensor],
    probability: float | None,
) -> Exchange:
    """What the exchange of the queries' backgrounds goes by; the donor is the next image."""
    assert batch.exchange is not None
    assert batch.partner is not None
    donor_BGG = torch.cat((foreground_BGG[1:], marked(batch.partner.saliency_1GG)))
    possible_B = ~donor_BGG.flatten(1).all(dim=1)
    mask_B1HW = None
    if probability is not None:
        chosen_B = possible_B & (batch.exchange.apply_B < probability)
        patches_BN = ~foreground_BGG.flatten(1) & chosen_B[:, None]
        mask_B1HW = patches_to_pixels(patches_BN[:, None], batch.images_VBCHW.shape[-1])
    return Exchange(donor_patches(donor_BGG, batch.exchange), possible_B, mask_B1HW)


def _shares(name: str, masks: Sequence[Tensor], foregrounds: Sequence[Tensor]) -> dict[str, Tensor]:
    """Masked shares of foreground and background, averaged over masks and images."""
    pairs = zip(masks, foregrounds, strict=True)
    shares = torch.stack([torch.stack(masked_share(*pair)).mean(dim=1) for pair in pairs])
    foreground_share, background_share = shares.mean(dim=0)
    return {
        f"{name}_masked_foreground": foreground_share,
        f"{name}_masked_background": background_share,
    }
