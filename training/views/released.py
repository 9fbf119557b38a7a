"""What the code published with the paper does differently from the paper (arXiv 2309.12757).

Whether the published numbers came from that code is unknown, so both behaviours can be run
(`masks.behaviour`). The departures:

1. The grid of saliency is sorted along each row before it is thresholded, and then read at the
   unsorted positions: each row has the right number of foreground patches, packed against its right
   edge (`sorted_rows`).
2. A stratum of exactly one patch is never masked, and a count of -1 background patches masks all
   but one of them (`training.views.patches.masked_counts`).
3. In high-passed views one tile of noise, as large as a patch, fills all patches of all spatial
   masks of a batch, another one those of the channel-wise masks, and one box of noise all focal
   masks of hard negatives; only the noise around a query's focal box is each image's own
   (`shared_noise`).
4. Only the first image of each rank's batch of hard negatives is encoded, as a batch of one with
   its own batch statistics, and is the hard negative of every query of the rank
   (`training.views.inputs.build_inputs`). The result depends on the number of ranks.

Shapes: `B` batch, `C` channels, `G` grid side, `H W` pixels, `P` side of a patch, `S` of a box.
"""

import torch
from torch import Tensor

from training.randomness.draws import Stream, view_number
from training.randomness.noise import gaussian_noise
from training.views.maskers import NEGATIVE_BOX_SIDE_AT_224, NUM_CHANNELS, MaskDraws, scaled_side


def sorted_rows(saliency_BGG: Tensor) -> Tensor:
    """Saliency whose foreground is that of the published code: departure 1."""
    return saliency_BGG.sort(dim=-1).values


def shared_noise(
    seeds_B: Tensor, draws: MaskDraws, *, view: str, hides_object: bool, view_size: int, grid: int
) -> Tensor:
    """Standard normal noise, most of which is shared by a rank's batch: departure 3.

    The shared parts follow from the seed of the batch's first image. The draws of the view's masks
    say which image has which shape; the focal masks of a hard negative (`hides_object`) share one
    box of noise. Returns float32, `[B, 3, view_size, view_size]`.
    """
    first_1, patch, number = seeds_B[:1], view_size // grid, view_number(view)

    def tiled(stream: Stream) -> Tensor:
        tile_1CPP = gaussian_noise(first_1, number, (NUM_CHANNELS, patch, patch), stream=stream)
        return tile_1CPP.repeat(1, 1, grid, grid)

    channel_wise, focal = (
        where_B[:, None, None, None] for where_B in (draws.channel_wise_B, draws.focal_B)
    )
    noise_BCHW = torch.where(channel_wise, tiled(Stream.CHANNEL_TILE), tiled(Stream.SPATIAL_TILE))
    if not hides_object:
        in_focal = gaussian_noise(seeds_B, number, (NUM_CHANNELS, view_size, view_size))
        return torch.where(focal, in_focal, noise_BCHW)
    # One box, moved to each image's own; what lies outside of it is not used.
    side = scaled_side(NEGATIVE_BOX_SIDE_AT_224, view_size)
    size = NUM_CHANNELS, side, side
    box_CSS = gaussian_noise(first_1, number, size, stream=Stream.FOCAL_TILE).squeeze(0)
    pixel = torch.arange(view_size, device=first_1.device)
    row_BH = (pixel - draws.box_B4[:, :1]).clamp(0, side - 1)
    column_BW = (pixel - draws.box_B4[:, 1:2]).clamp(0, side - 1)
    in_focal = box_CSS[:, row_BH[:, :, None], column_BW[:, None, :]].transpose(0, 1)
    return torch.where(focal, in_focal, noise_BCHW)
