"""From a loader's batch to what the encoders see: colour, filter, masks and fills, on the device.

Shapes: B batch, C channels, H W pixels, G grid side.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.views.batch_masks import BatchMasks, masks_of
from training.views.colours import apply_colours
from training.views.exchange import BackgroundSwap, donor_patches, exchanged_views
from training.views.fills import Fill, UnmaskedView, filled, sample_noise
from training.views.host_batch import CropBatch, HostBatch
from training.views.maskers import HideObject
from training.views.released import shared_noise
from training.views.settings import MaskConfig
from training.views.spec import ViewSpec, crops_of


class EncoderInputs(NamedTuple):
    """The declared views of every image, prepared, masked and filled, with telemetry."""

    views: dict[str, Tensor]
    """By name, [B, C, H, W], or [1, C, H, W] where one is that of the whole batch."""
    foreground: dict[str, Tensor]
    """Bool [B, G, G], by the name of the crop: what the masks go by, except that `shuffled` goes
    by another image's."""
    masks: dict[str, Tensor]
    """Bool [B, C or 1, H, W], by the name of the view."""
    telemetry: dict[str, Tensor]
    """Shares of foreground and of masked foreground and background: scalars on the device."""
    weights_B: Tensor | None = None
    """What each image counts in the loss, with mean 1 over the *global* batch
    (`distributed.balanced_weights`); 0 for one that stands in for a damaged one. None: all count
    alike."""


def to_device(batch: HostBatch, device: torch.device) -> HostBatch:
    """Copies every tensor of a batch to ``device`` without waiting; words stay behind."""

    def moved(part: Any) -> Any:  # noqa: ANN401  (a tensor, or a tuple or dict of them)
        if isinstance(part, Tensor):
            return part.to(device, non_blocking=True)
        if part is None:
            return None
        if isinstance(part, dict):
            return {name: moved(value) for name, value in part.items()}
        return type(part)(*map(moved, part))

    moved_batch = moved(batch._replace(damages=()))
    assert isinstance(moved_batch, HostBatch)
    return moved_batch


CACHED_BYTES = 5 << 20
"""On a CPU, images are processed in chunks that take this much as float32: few enough for a core's
cache, many enough that the calls cost less than their work. 8 of 224 px, 106 of 64 px."""


@dataclass(kw_only=True)
class _Memory:
    """Preallocated contiguous buffers for a chunk of images; None allocates on demand.

    On a CPU the same memory again and again is still in the cache: half of the time of new one.
    """

    scratch: tuple[Tensor | None, Tensor | None] = (None, None)
    views: dict[str, Tensor] = field(default_factory=dict)
    """By the name of the view: its result."""
    unmasked: dict[str, Tensor] = field(default_factory=dict)
    """By the name of the crop: the unmasked crop, where it is needed afterwards."""


class _Work(NamedTuple):
    """Everything that decides the views of a batch."""

    batch: HostBatch
    views: Sequence[ViewSpec]
    found: BatchMasks
    released: bool
    fill: Fill

    @property
    def lending(self) -> set[str]:
        """The crops whose unmasked images are needed after all views are made."""
        return {view.crop.name for view in self.views if view.needs_next}


@torch.no_grad()
def build_inputs(
    batch: HostBatch, views: Sequence[ViewSpec], *, masks: MaskConfig, fill: Fill
) -> EncoderInputs:
    """Colour, mask and fill the declared views.

    Every view is made from its unmasked crop, hard negatives too.

    Args:
        batch: on the device; has the crops and draws of all views.
        views: what the method declared.
        masks: what counts as foreground.
        fill: prepares all views; each fills its masked pixels with its own fill.
    """
    found = masks_of(batch, views, masks)
    work = _Work(batch, views, found, masks.released, fill)
    images_BCHW = next(iter(batch.crops.values())).images_BCHW
    # The published code makes one noise, and one hard negative, of a whole batch.
    in_parts = images_BCHW.device.type == "cpu" and not masks.released
    made, unmasked = _made_in_parts(work) if in_parts else _made(work, slice(None), _Memory())
    for view in views:
        if view.needs_next:
            made[view.name] = _swapped(work, view, unmasked[view.crop.name])
    ordered = {view.name: made[view.name] for view in views}
    return EncoderInputs(ordered, found.foreground, found.masks, found.telemetry)


def _swapped(work: _Work, view: ViewSpec, unmasked_BCHW: Tensor) -> Tensor:
    """A view whose masked patches are filled with the background of the next image."""
    assert isinstance(view.fill, BackgroundSwap)
    crop, found = view.crop.name, work.found
    following = work.batch.following[crop]
    donors_BCHW = torch.cat((unmasked_BCHW[1:], _prepared(following, work.fill)))
    patch_BN = donor_patches(found.next_foreground[crop], work.batch.swaps[view.name])
    return exchanged_views(unmasked_BCHW, donors_BCHW, patch_BN, found.masks[view.name])


def _prepared(crop: CropBatch, fill: Fill) -> Tensor:
    """The unmasked views of a crop, [B, C, H, W], as the encoder sees them."""
    matrix_B33, mean_matrix_B33, kernel_BK = crop.colours
    image01 = apply_colours(crop.images_BCHW, matrix_B33, mean_matrix_B33)
    return fill.blur_and_prepare(image01, kernel_BK)[1]


Made = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Views by name, and unmasked crops by name where they are needed afterwards."""


def _made_in_parts(work: _Work) -> Made:
    """`_made`, a chunk of images at a time, as many as the cache holds."""
    shapes = {name: crop.images_BCHW.shape for name, crop in work.batch.crops.items()}
    count = next(iter(shapes.values()))[0]
    largest = max(math.prod(shape[1:]) for shape in shapes.values())
    at_once = min(count, max(1, CACHED_BYTES // (4 * largest)))
    whole = _Memory()
    for view in work.views:
        if view.needs_next:
            continue
        if not view.is_filled and view.crop.name in work.lending:
            view_out = whole.unmasked.setdefault(
                view.crop.name, torch.empty(shapes[view.crop.name])
            )
        else:
            view_out = torch.empty(shapes[view.crop.name])
        whole.views[view.name] = view_out
    for name in work.lending:
        whole.unmasked.setdefault(name, torch.empty(shapes[name]))
    buffers = {shape: torch.empty(2, at_once, *shape[1:]) for shape in set(shapes.values())}
    for start in range(0, count, at_once):
        rows = slice(start, min(start + at_once, count))
        images = rows.stop - rows.start
        for crop in crops_of(tuple(work.views)):
            first, second = buffers[shapes[crop.name]]
            memory = _Memory(
                scratch=(first[:images], second[:images]),
                views={name: out[rows] for name, out in whole.views.items()},
                unmasked={name: out[rows] for name, out in whole.unmasked.items()},
            )
            _made_of_crop(work, crop.name, rows, memory)
    return whole.views, whole.unmasked


def _made(work: _Work, rows: slice, memory: _Memory) -> Made:
    """The views of some images, as the encoders see them, but for those with swapped patches."""
    for crop in crops_of(tuple(work.views)):
        _made_of_crop(work, crop.name, rows, memory)
    return memory.views, memory.unmasked


def _made_of_crop(work: _Work, crop_name: str, rows: slice, memory: _Memory) -> None:
    """Make the views of one crop in the memory, or note in it where they are."""
    batch, fill = work.batch, work.fill
    views = [view for view in work.views if view.crop.name == crop_name and not view.needs_next]
    masked = [view for view in views if view.is_filled]
    unmasked = [view for view in views if not view.is_filled]
    crop, (first, second) = batch.crops[crop_name], memory.scratch
    matrix_B33, mean_matrix_B33, kernel_BK = (part[rows] for part in crop.colours)
    image01 = apply_colours(crop.images_BCHW[rows], matrix_B33, mean_matrix_B33, out=second)
    # A single view is filled in the memory of its result, unless the unmasked crop is still needed.
    out = first
    if crop_name in work.lending:
        out = memory.unmasked.get(crop_name)
    elif unmasked or len(masked) == 1:
        out = memory.views.get((unmasked or masked)[0].name)
    image_BCHW, prepared_BCHW = fill.blur_and_prepare(image01, kernel_BK, out=out)
    if crop_name in work.lending:
        memory.unmasked[crop_name] = prepared_BCHW
    for view in unmasked:
        into = memory.views.setdefault(view.name, prepared_BCHW)
        if into.data_ptr() != prepared_BCHW.data_ptr():
            into.copy_(prepared_BCHW)
    values: dict[int, Tensor] = {}
    for view in masked:
        mask_BCHW = work.found.masks[view.name][rows]
        noise = partial(_noise, work, view, rows, mask_BCHW)
        source = UnmaskedView(prepared_BCHW, image_BCHW, noise)
        into_or_none = memory.views.get(view.name)
        assert isinstance(view.fill, Fill)
        if view.fill.high_pass:  # every view has noise of its own
            result = view.fill.apply(source, mask_BCHW, out=into_or_none)
        else:
            if id(view.fill) not in values:
                values[id(view.fill)] = view.fill.values(source)
            result = filled(prepared_BCHW, values[id(view.fill)], mask_BCHW, out=into_or_none)
        # The published code encodes the first hard negative of a batch: `training.views.released`.
        only_first = work.released and isinstance(view.masker, HideObject)
        memory.views[view.name] = result[:1] if only_first else result


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
        hides_object=isinstance(view.masker, HideObject),
        view_size=cut.size,
        grid=cut.grid,
    )
    return noise_BCHW.mul_(std)


def carrying_masks(
    inputs: EncoderInputs,
    views: Sequence[ViewSpec],
    carry: Callable[[Tensor, Tensor], Tensor],
) -> EncoderInputs:
    """The inputs with every view's mask on board, for a network that sees it.

    Views without a mask get an empty one, so that all have the same number of channels. So do views
    with swapped patches: their pixels are an image's, and the network may look at them.

    Args:
        inputs: from ``build_inputs``.
        views: what the method declared.
        carry: view and bool mask, [B, C or 1, H, W], to what the network takes.
    """
    own = [inputs.masks[view.name] for view in views if view.masker and not view.needs_next]
    channels = own[0].shape[1] if own else 1
    carried = {}
    for view in views:
        image_BCHW = inputs.views[view.name]
        batch, _, height, width = image_BCHW.shape
        if view.masker is None or view.needs_next:
            mask_BCHW = torch.zeros(
                batch, channels, height, width, dtype=torch.bool, device=image_BCHW.device
            )
        else:
            mask_BCHW = inputs.masks[view.name][:batch]
        carried[view.name] = carry(image_BCHW, mask_BCHW)
    return inputs._replace(views=carried)
