"""What is masked in a batch: its foreground, the mask of every view, and what is logged of them.

Shapes: B batch, C channels, G grid side, H W pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.saliency.foreground import foreground
from training.randomness.draws import QUERY
from training.views.host_batch import HostBatch
from training.views.maskers import Sight
from training.views.masks import masked_share
from training.views.released import released_foreground
from training.views.settings import MaskConfig
from training.views.spec import EXCHANGED, ViewSpec


class BatchMasks(NamedTuple):
    """The masks of a batch."""

    foreground: dict[str, Tensor]
    """Bool [B, G, G], by the name of the crop."""
    next_foreground: dict[str, Tensor]
    """That of the next images in the global batch, where they lend their backgrounds."""
    masks: dict[str, Tensor]
    """Bool [B, C or 1, H, W], by the name of the view, of views that have a masker."""
    telemetry: dict[str, Tensor]
    """Shares of foreground and of masked foreground and background: scalars on the device."""


def masks_of(batch: HostBatch, views: Sequence[ViewSpec], config: MaskConfig) -> BatchMasks:
    """Mask the views that have a masker.

    Args:
        batch: on the device.
        views: declared views.
        config: what counts as foreground.
    """

    def plain(saliency: Tensor) -> Tensor:
        rule, threshold = config.foreground, config.foreground_threshold
        return foreground(saliency, rule=rule, threshold=threshold)

    def marked(saliency: Tensor) -> Tensor:
        if config.released:
            rule, threshold = config.foreground, config.foreground_threshold
            return released_foreground(saliency, rule=rule, threshold=threshold)
        return plain(saliency)

    found = {name: marked(crop.saliency_BGG) for name, crop in batch.crops.items()}
    true = found
    if config.released:
        true = {name: plain(crop.saliency_BGG) for name, crop in batch.crops.items()}
    following = {
        name: torch.cat((found[name][1:], marked(crop.saliency_BGG)))
        for name, crop in batch.following.items()
    }
    masks: dict[str, Tensor] = {}
    for view in views:
        if view.masker is None:
            continue
        name, crop = view.crop.name, batch.crops[view.crop.name]
        steering_BGG = found[name]
        if view.masker.steered_by_next:
            assert crop.next_saliency_BGG is not None
            steering_BGG = marked(crop.next_saliency_BGG)
        sight = Sight(
            steering_BGG, crop.saliency_BGG, crop.images_BCHW.shape[-1], following.get(name)
        )
        masks[view.name] = view.masker.mask(batch.masks[view.name], sight)
    return BatchMasks(found, following, masks, _telemetry(views, masks, true))


def _telemetry(
    views: Sequence[ViewSpec], masks: dict[str, Tensor], foregrounds: dict[str, Tensor]
) -> dict[str, Tensor]:
    query_BGG = foregrounds[QUERY]
    telemetry = {
        "foreground_share": query_BGG.float().mean(),
        "all_foreground": query_BGG.flatten(1).all(dim=1).float().mean(),
    }
    groups: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for view in views:
        if view.name == EXCHANGED:
            telemetry["exchanged_share"] = masks[view.name].float().mean()
        elif view.masker is not None:
            pair = masks[view.name], foregrounds[view.crop.name]
            groups.setdefault(view.group, []).append(pair)
    for group, pairs in groups.items():
        shares = torch.stack([torch.stack(masked_share(*pair)).mean(dim=1) for pair in pairs])
        telemetry[f"{group}_masked_foreground"], telemetry[f"{group}_masked_background"] = (
            shares.mean(dim=0)
        )
    return telemetry
