"""Which pixels of a view and of a hard negative are masked.

Shapes: `B` batch, `C` channels (1, or 3 where channels may be masked apart), `G` grid side,
`N` = G * G patches, `H W` pixels.

The numbers are drawn first (`draws`, in the loader) and applied here, on any device, so that a mask
can be drawn again from its sample's seed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from training.views.mask_draws import MaskDraws, is_channel_wise, is_focal
from training.views.patches import Counting, patches_to_pixels
from training.views.strategies import NEGATIVE_PATCHES, GridView, mask_strategy


def _grid_mask(
    choose: Callable[[GridView], Tensor],
    foreground_BGG: Tensor,
    saliency_BGG: Tensor,
    draws: MaskDraws,
    *,
    view_size: int,
    high_pass: bool,
    show: float,
    released: bool,
    matched: bool,
) -> Tensor:
    """Masks of whole patches, `[B, C, H, W]`; with `high_pass` for images without focal mask."""
    scores_BCN = draws.scores_BCN[:, :1]
    if high_pass:
        apart_B11 = is_channel_wise(draws)[:, None, None]
        scores_BCN = torch.where(apart_B11, draws.scores_BCN, scores_BCN)
    patches_BCN = choose(
        GridView(
            foreground_BN=foreground_BGG.flatten(1),
            saliency_BN=saliency_BGG.flatten(1),
            scores_BCN=scores_BCN,
            ratio_B=draws.ratio_B,
            show=show,
            counting=Counting(high_pass, released, draws.count_B2 if matched else None),
        )
    )
    if high_pass:
        patches_BCN = patches_BCN & ~is_focal(draws)[:, None, None]
    return patches_to_pixels(patches_BCN, view_size)


def _inside_box(box_B4: Tensor, view_size: int) -> tuple[Tensor, Tensor]:
    """The rows `[B, 1, H, 1]` and the columns `[B, 1, 1, W]` that each image's box crosses."""
    pixel = torch.arange(view_size, device=box_B4.device)
    inside_B2S = (pixel >= box_B4[:, :2, None]) & (pixel < box_B4[:, 2:, None])
    return inside_B2S[:, :1, :, None], inside_B2S[:, 1:, None, :]


def _bytes(mask: Tensor) -> Tensor:
    """The same memory as bytes of 0 and 1: torch works on many of them at once, on bools singly."""
    return mask.view(torch.uint8)


def _also(mask_BCHW: Tensor, more_B1HW: Tensor) -> None:
    """Masks, in place, what `more_B1HW` (bytes) masks too."""
    _bytes(mask_BCHW).bitwise_or_(more_B1HW)


def view_mask(
    foreground_BGG: Tensor,
    saliency_BGG: Tensor,
    draws: MaskDraws,
    *,
    strategy: str,
    view_size: int,
    high_pass: bool,
    probability: float = 1.0,
    show: float = 0.0,
    released: bool = False,
    matched: bool = False,
) -> Tensor:
    """The masks of queries, or of keys.

    Patches are chosen by the strategy (`strategies`). With `high_pass` each image has
    one of three shapes: focal (everything outside the box is masked, whatever the saliency),
    spatial (the same patches in all channels) or channel-wise (patches drawn for each channel
    apart).

    Args:
        foreground_BGG: bool; for `shuffled`, that of another image.
        saliency_BGG: what `attmask_*` orders the patches by, float.
        draws: what `draw_masks` drew, on the foreground's device.
        strategy: a key of `MASK_STRATEGIES`.
        view_size: side of the view in pixels, a multiple of G.
        high_pass: whether the masks are for the high-pass fill.
        probability: how often a view is masked at all.
        show: share of the masked patches that `attmask_hint` shows again.
        released: whether patches are counted as the published code does.
        matched: whether counts are rounded as drawn (`masks.count matched`).

    Returns:
        True where masked, bool `[B, C, H, W]`; C is 3 with `high_pass`, else 1.

    Raises:
        InputError: an unknown strategy, or a view that the grid does not divide.
    """
    mask_BCHW = _grid_mask(
        mask_strategy(strategy),
        foreground_BGG,
        saliency_BGG,
        draws,
        view_size=view_size,
        high_pass=high_pass,
        show=show,
        released=released,
        matched=matched,
    )
    if high_pass and strategy != "none":
        focal = is_focal(draws)[:, None, None, None]
        rows, columns = _inside_box(draws.box_B4, view_size)
        _also(mask_BCHW, _bytes(focal & ~rows) | _bytes(focal & ~columns))
    if probability < 1.0:
        mask_BCHW.bitwise_and_((draws.apply_B < probability)[:, None, None, None])
    return mask_BCHW


def hard_negative_mask(
    foreground_BGG: Tensor,
    draws: MaskDraws,
    *,
    view_size: int,
    high_pass: bool,
    patches: str = "object",
    released: bool = False,
    matched: bool = False,
) -> Tensor:
    """The masks of hard negatives: foreground patches only, in the numbers of a balanced view's.

    With `high_pass` each image has one of the three shapes of `view_mask`, but the focal one masks
    the inside of its box.

    Args:
        foreground_BGG: bool; the view's own, except in the `shuffled` control.
        draws: what `draw_masks` drew, on the foreground's device.
        view_size: side of the view in pixels, a multiple of G.
        high_pass: whether the masks are for the high-pass fill.
        patches: a key of `NEGATIVE_PATCHES`: ``object``, or as many at ``random``.
        released: whether patches are counted as the published code does.
        matched: whether counts are rounded as drawn (`masks.count matched`).

    Returns:
        True where masked, bool `[B, C, H, W]`; C is 3 with `high_pass`, else 1.

    Raises:
        InputError: a view that the grid does not divide.
    """
    mask_BCHW = _grid_mask(
        NEGATIVE_PATCHES[patches],
        foreground_BGG,
        foreground_BGG,
        draws,
        view_size=view_size,
        high_pass=high_pass,
        show=0.0,
        released=released,
        matched=matched,
    )
    if not high_pass:
        return mask_BCHW
    rows, columns = _inside_box(draws.box_B4, view_size)
    focal_rows = is_focal(draws)[:, None, None, None] & rows
    _also(mask_BCHW, _bytes(focal_rows) & _bytes(columns))
    return mask_BCHW


def masked_share(mask_BCHW: Tensor, foreground_BGG: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each stratum is masked: a figure to log.

    Args:
        mask_BCHW: bool, True where masked.
        foreground_BGG: bool.

    Returns:
        The share of the foreground's and of the background's pixels that are masked, averaged over
        the channels, float32 in [0, 1], `[B]` each; 0 for a stratum without patches.
    """
    batch, channels, height, width = mask_BCHW.shape
    grid = foreground_BGG.shape[-1]
    cut = _bytes(mask_BCHW).reshape(batch, channels, grid, height // grid, width)
    if height // grid < 256 and width % 8 == 0:
        # Eight bytes at once, as one number: none of them counts so far that it reaches the next.
        columns = cut.view(torch.int64).sum(dim=3).view(torch.uint8)
    else:
        columns = cut.sum(dim=3, dtype=torch.int32)
    patches = columns.view(batch, channels, grid, grid, width // grid)
    count_BN = patches.sum(dim=(1, 4), dtype=torch.int32).flatten(1)
    share_BN = count_BN * (grid * grid / (channels * height * width))
    foreground_BN = foreground_BGG.flatten(1).float()
    background_BN = 1.0 - foreground_BN

    def within(stratum_BN: Tensor) -> Tensor:
        return (share_BN * stratum_BN).sum(dim=1) / stratum_BN.sum(dim=1).clamp(min=1.0)

    return within(foreground_BN), within(background_BN)
