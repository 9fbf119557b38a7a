"""Do masks show objects? Not where they keep all, nothing, always the same, or carry a message.

Shapes: M images, B batch, S side of a view, P side of a mask in cells, D features.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.saliency.explain_network import resized
from training.evaluate.encoders import NamedEncoder
from training.randomness.draws import KEY, QUERY
from training.views.fills import FILLS, UnmaskedView, sample_noise

ALL, NONE = 0.9, 0.01
"""Share of an image from which a mask keeps all, and up to which it keeps nothing."""
MOST_SUCH, LEAST_OWN, STANDARD_ERRORS = 0.5, 0.1, 2.0
"""Limits of `MaskCheck.warnings`."""
Crops = tuple[Tensor, Tensor]
"""Images in [0, 1], [B, 3, U, U], and their seeds of noise, [B]."""


def features_under(
    encoder: NamedEncoder, crops: Crops, mask_B1PP: Tensor, fill: str
) -> tuple[Tensor, Tensor]:
    """Features [B, D] of m x + (1 - m) fill and of (1 - m) x + m fill; gradients reach the mask."""
    size = encoder.view_size
    image01_BCSS, mask_B1SS = resized(crops[0], size), resized(mask_B1PP, size)
    prepared_BCSS = encoder.prepare(image01_BCSS)

    def seen(weight_B1SS: Tensor, view: str) -> Tensor:
        noise = partial(sample_noise, crops[1], view=view, size=(3, size, size))
        view_before = UnmaskedView(prepared_BCSS, image01_BCSS, noise, encoder.info.normalisation)
        values = FILLS[fill].values(view_before)
        x_BCSS = torch.lerp(values.expand_as(prepared_BCSS), prepared_BCSS, weight_B1SS)
        return encoder.forward_prepared(x_BCSS).float()

    return seen(mask_B1SS, QUERY), seen(1 - mask_B1SS, KEY)


@dataclass(frozen=True, kw_only=True)
class MaskCheck:
    """Figures of masks, cut at one half.

    Shares of masks that keep all, and nothing; of the cells' variance the share that is between
    images; how much more alike masked and whole crop are under the crop's own mask than under the
    next one's (`gains`), to the backbone and to a second encoder, with its standard error.
    """

    all_share: float
    none_share: float
    own_share: float
    first_gain: float
    second_gain: float
    second_error: float

    def warnings(self) -> list[str]:
        """What is wrong, in words."""
        unconfirmed = self.second_gain < STANDARD_ERRORS * self.second_error
        found = {
            f"{self.all_share:.0%} of the masks keep all": self.all_share > MOST_SUCH,
            f"{self.none_share:.0%} of the masks keep nothing": self.none_share > MOST_SUCH,
            "the masks are nearly the same for every image": self.own_share < LEAST_OWN,
            "the masks tell the backbone what an image is, and not the second encoder: they may "
            "carry a message instead of showing the object": self.first_gain > 0 and unconfirmed,
        }
        return [words for words, is_so in found.items() if is_so]


@torch.no_grad()
def check_masks(
    masks_of: Callable[[Tensor], Tensor],
    encoders: tuple[NamedEncoder, NamedEncoder],
    batches: Iterable[Crops],
    fill: str,
) -> MaskCheck:
    """Look at the masks [B, 1, P, P] that `masks_of` gives for the images of the batches."""
    masks: list[Tensor] = []
    gained: tuple[list[Tensor], ...] = ([], [])
    for crops in batches:
        mask_B1PP = (masks_of(crops[0]) >= 0.5).float()
        masks.append(mask_B1PP.flatten(1))
        for encoder, gain in zip(encoders, gained, strict=True):
            whole_BD = encoder.forward(resized(crops[0], encoder.view_size)).float()
            own_BD, _ = features_under(encoder, crops, mask_B1PP, fill)
            other_BD, _ = features_under(encoder, crops, mask_B1PP.roll(1, dims=0), fill)
            gain.append(gains(whole_BD, own_BD, other_BD))
    mask_MN, (first_M, second_M) = torch.cat(masks), map(torch.cat, gained)
    area_M, variance = mask_MN.mean(dim=1), float(mask_MN.var(correction=0))
    return MaskCheck(
        all_share=float((area_M >= ALL).float().mean()),
        none_share=float((area_M <= NONE).float().mean()),
        own_share=float(mask_MN.var(dim=0, correction=0).mean()) / variance if variance else 0.0,
        first_gain=float(first_M.mean()),
        second_gain=float(second_M.mean()),
        second_error=float(second_M.std() / len(second_M) ** 0.5),
    )


def gains(whole_BD: Tensor, own_BD: Tensor, other_BD: Tensor) -> Tensor:
    """cos(whole, own) - cos(whole, other), [B]; the mean of the whole images is the origin."""
    whole, own, other = (x - whole_BD.mean(dim=0) for x in (whole_BD, own_BD, other_BD))
    return F.cosine_similarity(whole, own, dim=1) - F.cosine_similarity(whole, other, dim=1)
