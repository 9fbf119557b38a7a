"""A batch as the loader hands it over.

Shapes: B samples of one rank, C channels, H W pixels, G grid side, N = G * G patches.
"""

from typing import Any, NamedTuple

from torch import Tensor

from training.views.colours import ColourDraws


class Damage(NamedTuple):
    """A sample that could not be used: its position in the rank's batch, and the reason."""

    position: int
    reason: str


class CropBatch(NamedTuple):
    """One crop of every image."""

    images_BCHW: Tensor
    """uint8 (channels last in memory)."""
    saliency_BGG: Tensor
    """float32 in [0, 1], pooled to the patches of the crop."""
    next_saliency_BGG: Tensor | None
    """That of the next image in the global batch, where a masker is steered by it."""
    colours: ColourDraws


class HostBatch(NamedTuple):
    """One rank's share of a global batch as the loader hands it over, all on the CPU."""

    sample_ids_B: Tensor
    """int64, row numbers in the shard set."""
    noise_seeds_B: Tensor
    """int64, the bits of the sample seeds, for noise that is drawn on the device."""
    crops: dict[str, CropBatch]
    """By name."""
    masks: dict[str, Any]
    """What the maskers drew, by the name of the view."""
    following: dict[str, CropBatch]
    """Crops of the one image that follows this rank's last one in the global batch, by name, where
    images lend their backgrounds."""
    swaps: dict[str, Tensor]
    """What `BackgroundSwap.draw` drew, [B, N], by the name of the view."""
    weights_B: Tensor | None = None
    """float32, 0 where another sample stands in for a damaged one, else 1; None: all are 1."""
    damages: tuple[Damage, ...] = ()
