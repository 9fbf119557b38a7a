"""A batch as the loader hands it over.

Shapes: V views (0 query, 1 key), B samples of one rank, C channels, H W pixels, G grid side.
"""

from typing import NamedTuple

from torch import Tensor

from training.data.damage import Damage
from training.views.colours import ColourDraws
from training.views.mask_draws import ExchangeDraws, MaskDraws


class Partner(NamedTuple):
    """The query of the image that follows this rank's last one in the global batch."""

    image_1CHW: Tensor
    """uint8 (channels last in memory)."""
    saliency_1GG: Tensor
    colours: ColourDraws


class HostBatch(NamedTuple):
    """One rank's share of a global batch as the loader hands it over, all on the CPU."""

    sample_ids_B: Tensor
    """int64, row numbers in the shard set."""
    noise_seeds_B: Tensor
    """int64, the bits of the sample seeds, for noise that is drawn on the device."""
    images_VBCHW: Tensor
    """uint8, two crops of each image (channels last in memory)."""
    saliency_VBGG: Tensor
    """float32 in [0, 1], the image's own saliency, pooled to the patches of each view."""
    mask_saliency_VBGG: Tensor
    """The saliency that steers the masks: another image's with strategy ``shuffled``."""
    query_colours: ColourDraws
    key_colours: ColourDraws
    masks: dict[int, MaskDraws]
    """By the number of the view: those of the masked views and of the hard negatives."""
    exchange: ExchangeDraws | None = None
    """Where backgrounds of queries are exchanged."""
    partner: Partner | None = None
    """Where backgrounds are exchanged: that of the last query comes from it."""
    weights_B: Tensor | None = None
    """float32, 0 where another sample stands in for a damaged one, else 1; None: all are 1."""
    damages: tuple[Damage, ...] = ()
    """What was damaged, by position."""
