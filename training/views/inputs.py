"""From a loader's batch to what the encoders see: colours, masks and fills, on the device.

Shapes: B samples of one rank, C channels, H W pixels, G grid side, N = G * G patches.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pipeline.saliency.foreground import foreground
from training.randomness.draws import view_group
from training.views.colours import apply_colours
from training.views.crops import CropBatch
from training.views.exchange import BackgroundMasker, PatchSwap, SwapInputs
from training.views.fills import Fill, UnmaskedView, filled, sample_noise
from training.views.maskers import MaskerInputs, PatchMasker
from training.views.matched import ObjectMasker
from training.views.patches import masked_share
from training.views.released import shared_noise, sorted_rows
from training.views.settings import MaskConfig
from training.views.spec import ViewSpec

CACHED_BYTES = 5 << 20
"""Chunk size on a CPU, so that one chunk of float32 images fits in a core's cache: 8 images of
224 px, 106 of 64 px."""


class Damage(NamedTuple):
    """A sample that could not be used: its position in the rank's batch, and the reason."""

    position: int
    reason: str


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
    images lend patches."""
    swaps: dict[str, Tensor]
    """What `PatchSwap.draw` drew, [B, N], by the name of the view."""
    weights_B: Tensor | None = None
    """float32, 0 where another sample stands in for a damaged one, else 1; None: all are 1."""
    damages: tuple[Damage, ...] = ()


class EncoderInputs(NamedTuple):
    """The declared views of every image, prepared, masked and filled, with telemetry."""

    views: dict[str, Tensor]
    """By name, [B, C, H, W], or [1, C, H, W] where one is that of the whole batch."""
    foreground: dict[str, Tensor]
    """Bool [B, G, G], by the name of the crop: what the masks go by, except that `shuffled` goes
    by another image's."""
    masks: dict[str, Tensor]
    """Bool [B, C or 1, H, W], by the name of the view, of views that have a masker."""
    telemetry: dict[str, Tensor]
    """Shares of foreground and of masked foreground and background: scalars on the device."""
    weights_B: Tensor | None = None
    """Weight of each image in the loss, with mean 1 over the *global* batch
    (`distributed.balanced_weights`); 0 for one that stands in for a damaged one. None: 1."""
    unmasked: Mapping[str, UnmaskedView] = {}
    """Before they are masked, by the name of the view, of views whose masker sees them."""


def to_device(batch: HostBatch, device: torch.device) -> HostBatch:
    """Copy every tensor of a batch to ``device`` without waiting."""

    def move(part: Tensor) -> Tensor:
        if device.type == "mps" and part.dtype == torch.float64:
            part = part.float()  # MPS has none: a drawn share may round to another count
        return part.to(device, non_blocking=True)

    moved: HostBatch = tree_map_only(Tensor, move, batch)
    return moved


@torch.no_grad()
def build_inputs(
    batch: HostBatch, views: Sequence[ViewSpec], *, masks: MaskConfig, fill: Fill
) -> EncoderInputs:
    """Colour, mask and fill the declared views, each made from its unmasked crop.

    Args:
        batch: on the device; has the crops and draws of all views.
        views: what the method declared.
        masks: what counts as foreground.
        fill: prepares all views; each fills its masked pixels with its own fill.
    """
    mark_truly = partial(foreground, rule=masks.foreground, threshold=masks.foreground_threshold)

    released = masks.behaviour == "released"

    def mark(saliency_BGG: Tensor) -> Tensor:
        return mark_truly(sorted_rows(saliency_BGG) if released else saliency_BGG)

    found = {name: mark(crop.saliency_BGG) for name, crop in batch.crops.items()}
    true_foreground = found
    if released:
        true_foreground = {n: mark_truly(crop.saliency_BGG) for n, crop in batch.crops.items()}
    next_foreground = {
        name: torch.cat((found[name][1:], mark(crop.saliency_BGG)))
        for name, crop in batch.following.items()
    }
    pixel_masks, unmasked = {}, {}
    for view in views:
        if view.masker is None:
            continue
        crop, steering_BGG = batch.crops[view.crop.name], found[view.crop.name]
        if view.masker.steered_by_next:
            assert crop.next_saliency_BGG is not None
            steering_BGG = mark(crop.next_saliency_BGG)
        side, lent = crop.images_BCHW.shape[-1], next_foreground.get(view.crop.name)
        inputs = MaskerInputs(steering_BGG, crop.saliency_BGG, side, lent)
        if view.masker.sees_view:
            unmasked[view.name] = _unmasked(batch, view, fill)
            inputs = inputs._replace(view_BCHW=unmasked[view.name].prepared_BCHW)
        pixel_masks[view.name] = view.masker.mask(batch.masks[view.name], inputs)
    made = _filled_views(_Work(batch, views, fill, released, pixel_masks))
    for view in views:
        if isinstance(view.fill, PatchSwap):  # the next image of the batch is the donor
            name, unmasked_BCHW = view.crop.name, made[_made_as(view)]
            _, last_1CHW = _prepared(batch.following[name], fill, slice(None))
            donors_BCHW = torch.cat((unmasked_BCHW[1:], last_1CHW))
            marked = found[name], next_foreground[name]
            drawn = pixel_masks[view.name], batch.swaps[view.name]
            made[view.name] = view.fill.filled(
                SwapInputs(unmasked_BCHW, donors_BCHW, *marked, *drawn)
            )
    telemetry = _telemetry(views, pixel_masks, true_foreground)
    seen = {view.name: made[view.name] for view in views}
    return EncoderInputs(seen, found, pixel_masks, telemetry, unmasked=unmasked)


def _telemetry(
    views: Sequence[ViewSpec], masks: dict[str, Tensor], foregrounds: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Shares of the first crop that are foreground, and of the views, by group, that are masked."""
    first_BGG = foregrounds[views[0].crop.name]
    telemetry = {
        "foreground_share": first_BGG.float().mean(),
        "all_foreground": first_BGG.flatten(1).all(dim=1).float().mean(),
    }
    shares: dict[str, list[Tensor]] = {}
    matched: list[Tensor] = []
    for view in views:
        if isinstance(view.masker, BackgroundMasker):
            telemetry[f"{view_group(view.name)}_share"] = masks[view.name].float().mean()
        elif isinstance(view.masker, ObjectMasker):
            matched.append(masks[view.name].flatten(1))
        elif view.masker is not None:
            both_2B = torch.stack(masked_share(masks[view.name], foregrounds[view.crop.name]))
            shares.setdefault(view_group(view.name), []).append(both_2B.mean(dim=1))
    if matched:  # shares of the patches, and of the views whole, that are the next image's
        telemetry["matched_share"] = torch.cat(matched).float().mean()
        telemetry["matched_whole"] = torch.cat(matched).all(dim=1).float().mean()
    for group, parts in shares.items():
        inside, outside = torch.stack(parts).mean(dim=0)
        telemetry[f"{group}_masked_foreground"] = inside
        telemetry[f"{group}_masked_background"] = outside
    return telemetry


class _Work(NamedTuple):
    """Everything that decides the views of a batch."""

    batch: HostBatch
    views: Sequence[ViewSpec]
    fill: Fill
    released: bool
    masks: dict[str, Tensor]


def _made_as(view: ViewSpec) -> str:
    """What is made of a view before patches are swapped: itself, or its unmasked crop."""
    return f"unmasked {view.crop.name}" if isinstance(view.fill, PatchSwap) else view.name


def _filled_views(work: _Work) -> dict[str, Tensor]:
    """All views, as `_made_as` names them.

    On a CPU chunk by chunk, in preallocated memory. Not in the released behaviour, which makes one
    noise, and one hard negative, of a whole batch.
    """
    crops = {view.crop.name: work.batch.crops[view.crop.name].images_BCHW for view in work.views}
    images_BCHW = next(iter(crops.values()))
    made: dict[str, Tensor] = {}
    if images_BCHW.device.type != "cpu" or work.released:
        for crop in crops:
            made |= _views_of_crop(work, crop, slice(None), {})
        return made
    for view in work.views:
        made[_made_as(view)] = torch.empty(crops[view.crop.name].shape)
    largest = max(math.prod(images.shape[1:]) for images in crops.values())
    chunk = max(1, CACHED_BYTES // (4 * largest))
    for start in range(0, len(images_BCHW), chunk):
        rows = slice(start, start + chunk)
        outs = {name: out[rows] for name, out in made.items()}
        for crop in crops:
            for name, part in _views_of_crop(work, crop, rows, outs).items():
                if part is not outs[name]:
                    outs[name].copy_(part)
    return made


def _prepared(
    crop: CropBatch, fill: Fill, rows: slice, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Coloured images in [0, 1] of some rows, and their unmasked views as the encoder sees them."""
    matrix_B33, mean_matrix_B33, kernel_BK = (part[rows] for part in crop.colours)
    image01 = apply_colours(crop.images_BCHW[rows], matrix_B33, mean_matrix_B33)
    return fill.blur_and_prepare(image01, kernel_BK, out=out)


def _unmasked(batch: HostBatch, view: ViewSpec, fill: Fill) -> UnmaskedView:
    """A whole batch of a view before it is masked, in memory of its own."""
    assert view.masker is not None
    image_BCHW, prepared_BCHW = _prepared(batch.crops[view.crop.name], fill, slice(None))
    side, std = view.crop.cut.size, view.masker.noise_std
    size = image_BCHW.shape[1], side, side
    noise = partial(sample_noise, batch.noise_seeds_B, view=view.name, size=size, std=std)
    return UnmaskedView(prepared_BCHW, image_BCHW, noise, fill.normalisation)


def _views_of_crop(
    work: _Work, crop_name: str, rows: slice, outs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The views of some rows of one crop by name, written to `outs` where that is possible."""
    masked: list[tuple[ViewSpec, Fill]] = []
    unmasked: list[str] = []
    for view in work.views:
        if view.crop.name == crop_name:
            masks = view.masker is not None and view.masker.masks
            if masks and isinstance(view.fill, Fill):
                masked.append((view, view.fill))
            else:
                unmasked.append(_made_as(view))
    # A single view is filled in the memory of its result, which holds the unmasked crop first.
    single = masked[0][0].name if len(masked) == 1 else ""
    out = outs.get(unmasked[0] if unmasked else single)
    image_BCHW, prepared_BCHW = _prepared(work.batch.crops[crop_name], work.fill, rows, out)
    made = dict.fromkeys(unmasked, prepared_BCHW)
    values: dict[Fill, Tensor] = {}
    for view, fill in masked:
        mask_BCHW = work.masks[view.name][rows]
        noise = partial(_noise, work, view, rows, mask_BCHW)
        source = UnmaskedView(prepared_BCHW, image_BCHW, noise, work.fill.normalisation)
        if fill.per_view or fill not in values:
            values[fill] = fill.values(source)
        result = filled(prepared_BCHW, values[fill], mask_BCHW, out=outs.get(view.name))
        # The published code encodes the first hard negative of a batch: `training.views.released`.
        made[view.name] = result[:1] if work.released and _hides_object(view) else result
    return made


def _hides_object(view: ViewSpec) -> bool:
    return isinstance(view.masker, PatchMasker) and view.masker.hides_object


def _noise(work: _Work, view: ViewSpec, rows: slice, mask_BCHW: Tensor) -> Tensor:
    assert view.masker is not None
    batch, cut, std = work.batch, view.crop.cut, view.masker.noise_std
    if not work.released:
        shape = batch.crops[view.crop.name].images_BCHW.shape[1], cut.size, cut.size
        seeds_B = batch.noise_seeds_B[rows]
        return sample_noise(seeds_B, view=view.name, size=shape, std=std, where_BCHW=mask_BCHW)
    noise_BCHW = shared_noise(
        batch.noise_seeds_B,
        batch.masks[view.name],
        view=view.name,
        hides_object=_hides_object(view),
        view_size=cut.size,
        grid=cut.grid,
    )
    return noise_BCHW.mul_(std)
