"""From a loader's batch to what the encoders see: colour, filter, masks and fills, on the device.

Shapes: V views (0 query, 1 key), B batch, C channels, H W pixels, G grid side.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.randomness.draws import View, negative_source
from training.views.batch_masks import NAMES, masks_of
from training.views.colours import apply_colours
from training.views.exchange import exchanged_views
from training.views.fills import Fill, UnmaskedView, filled, noise_std, sample_noise
from training.views.host_batch import HostBatch
from training.views.mask_config import MaskConfig
from training.views.released import shared_noise


class EncoderInputs(NamedTuple):
    """Two views and the hard negatives of every image, filtered and masked, with telemetry."""

    query_BCHW: Tensor
    key_BCHW: Tensor
    negatives: dict[View, tuple[Tensor, ...]]
    """Hard negatives by the view they are cut from, each [B, C, H, W], or [1, C, H, W] where one
    is that of the whole batch."""
    foreground_VBGG: Tensor
    """What the masks go by, except that `shuffled` goes by another image's."""
    masks: dict[int, Tensor]
    """Bool [B, C or 1, H, W], by the number of the view."""
    telemetry: dict[str, Tensor]
    """Shares of foreground and of masked foreground and background: scalars on the device."""
    exchanged_BCHW: Tensor | None = None
    """The query, unmasked, on another image's background, where a method wants it."""
    weights_B: Tensor | None = None
    """What each image counts in the loss, with mean 1 over the *global* batch
    (`training.core.distributed.balanced_weights`); 0 for one that stands in for a damaged one. None:
    all count alike."""


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


class _Places(NamedTuple):
    """Memory that some images are worked on in and end in, contiguous; None: found on the way.

    On a CPU the same memory again and again is still in the cache: half of the time of new one.
    """

    scratch: tuple[Tensor | None, Tensor | None]
    views: dict[int, Tensor]
    """By the number of the view: where it ends."""


class _Work(NamedTuple):
    """All that decides the views of a batch."""

    batch: HostBatch
    pixel_masks: dict[int, Tensor]
    masks: MaskConfig
    fill: Fill
    negatives: Sequence[int]
    keeps_query: bool
    """Whether the unmasked query is wanted too (`_UNMASKED`)."""


class _Source:
    """A view of some images of a batch, and what is cut from it."""

    def __init__(self, view: View, work: _Work, rows: slice, places: _Places) -> None:
        self.work, self.rows, self.places = work, rows, places
        self.is_masked = view in work.masks.masked_views and work.masks.fills_patches
        batch = work.batch
        colours = batch.key_colours if view == View.KEY else batch.query_colours
        first, second = places.scratch
        matrix_B33, mean_matrix_B33, kernel_BK = (part[rows] for part in colours)
        levels = batch.images_VBCHW[view, rows]
        image01 = apply_colours(levels, matrix_B33, mean_matrix_B33, out=second)
        # Filled in the place where it ends, unless the unmasked view is still of use.
        is_kept = view == View.QUERY and work.keeps_query
        is_cut = any(negative_source(number) == view for number in work.negatives)
        prepared = first if self.is_masked and is_cut else places.views.get(view)
        if is_kept:
            prepared = places.views.get(_UNMASKED)
        self.image, self.prepared = work.fill.blur_and_prepare(image01, kernel_BK, out=prepared)
        self._values: Tensor | None = None

    def filled(self, view: int) -> Tensor:
        """The view of that number: this one, filled where it is masked."""
        fill, mask_BCHW = self.work.fill, self.work.pixel_masks[view][self.rows]
        noise, out = partial(self._noise, view, mask_BCHW), self.places.views.get(view)
        unmasked = UnmaskedView(self.prepared, self.image, noise)
        if fill.high_pass:  # every view has noise of its own
            return fill.apply(unmasked, mask_BCHW, out=out)
        if self._values is None:
            self._values = fill.values(unmasked)
        return filled(self.prepared, self._values, mask_BCHW, out=out)

    def _noise(self, view: int, mask_BCHW: Tensor) -> Tensor:
        batch, (_, channels, size, _) = self.work.batch, self.image.shape
        if not self.work.masks.released:
            seeds_B, shape = batch.noise_seeds_B[self.rows], (channels, size, size)
            return sample_noise(seeds_B, view=view, size=shape, where_BCHW=mask_BCHW)
        draws, grid = batch.masks[view], batch.saliency_VBGG.shape[-1]
        noise_BCHW = shared_noise(batch.noise_seeds_B, draws, view=view, view_size=size, grid=grid)
        return noise_BCHW.mul_(noise_std(view))


CACHED_BYTES = 5 << 20
"""On a CPU as many images are worked on at once as take so much as floats: few enough for a core's
cache, many enough that the calls do not take longer than their work. 8 of 224 px, 106 of 64 px."""


_UNMASKED = -1
"""The number of the query as it is before it is masked."""


@torch.no_grad()
def build_inputs(
    batch: HostBatch,
    *,
    masks: MaskConfig,
    fill: Fill,
    negatives: Sequence[int],
    exchange: float | None = None,
) -> EncoderInputs:
    """Colours both views, masks what the strategy masks, and cuts the hard negatives.

    Hard negatives are cut from the unmasked views. By default the key is never masked: masking the
    query alone wins with every fill (arXiv 2309.12757, ablation of the masked branch).

    Args:
        batch: on the device; has draws for every masked view and hard negative.
        masks: strategy and threshold; ratios were drawn by the loader.
        fill: what stands in masked patches.
        negatives: numbers of the views that are hard negatives (`draws.negative_view`).
        exchange: share of the queries, in [0, 1], of which a further copy is made on another
            background; the others' copies are the unmasked query. None: no copies.
    """
    found = masks_of(batch, masks, high_pass=fill.high_pass, negatives=negatives, exchange=exchange)
    work = _Work(batch, found.masks, masks, fill, negatives, found.exchange is not None)
    # The published code makes one noise, and one hard negative, of a whole batch.
    if batch.images_VBCHW.device.type == "cpu" and not masks.released:
        made = _made_in_parts(work)
    else:
        made = _made(work, slice(None), _Places((None, None), {}))
    exchanged = None
    if found.exchange is not None:
        unmasked = made[_UNMASKED]
        donors = torch.cat((unmasked[1:], _partner_view(batch, fill)))
        if found.exchange.mask_B1HW is not None:
            exchanged = exchanged_views(
                unmasked, donors, found.exchange.patch_BN, found.exchange.mask_B1HW
            )
        if masks.strategy == "exchange" and masks.exchange == "grey":
            mean = unmasked.mean(dim=(2, 3), keepdim=True)
            made[View.QUERY] = torch.where(found.masks[View.QUERY], mean, unmasked)
        elif masks.strategy == "exchange":
            # Pixels of another image, which a network that sees the mask may look at.
            mask_B1HW = found.masks.pop(View.QUERY)
            made[View.QUERY] = exchanged_views(unmasked, donors, found.exchange.patch_BN, mask_B1HW)
    cut: dict[View, tuple[Tensor, ...]] = {}
    for number in negatives:
        source = negative_source(number)
        cut[source] = (*cut.get(source, ()), made[number])
    return EncoderInputs(
        made[View.QUERY],
        made[View.KEY],
        cut,
        found.foreground_VBGG,
        found.masks,
        found.telemetry,
        exchanged,
    )


def _partner_view(batch: HostBatch, fill: Fill) -> Tensor:
    """The query of the image after the last one, [1, C, H, W], as the encoder sees it."""
    assert batch.partner is not None
    matrix_133, mean_matrix_133, kernel_1K = batch.partner.colours
    image01 = apply_colours(batch.partner.image_1CHW, matrix_133, mean_matrix_133)
    return fill.blur_and_prepare(image01, kernel_1K)[1]


def _made_in_parts(work: _Work) -> dict[int, Tensor]:
    """`_made`, of as many images at once as the cache holds."""
    count, *shape = work.batch.images_VBCHW.shape[1:]
    at_once = min(count, max(1, CACHED_BYTES // (4 * math.prod(shape))))
    made = {number: torch.empty(count, *shape) for number in (*NAMES, *work.negatives)}
    if work.keeps_query:
        masked = work.masks.fills_patches and View.QUERY in work.masks.masked_views
        made[_UNMASKED] = torch.empty(count, *shape) if masked else made[View.QUERY]
    first, second = torch.empty(2, at_once, *shape)
    for start in range(0, count, at_once):
        rows = slice(start, min(start + at_once, count))
        images = rows.stop - rows.start
        views = {number: whole[rows] for number, whole in made.items()}
        _made(work, rows, _Places((first[:images], second[:images]), views))
    return made


def _made(work: _Work, rows: slice, places: _Places) -> dict[int, Tensor]:
    """The views of some images by their numbers, as the encoders see them."""
    made: dict[int, Tensor] = {}
    for view in NAMES:
        source = _Source(view, work, rows, places)
        if view == View.QUERY and work.keeps_query:
            made[_UNMASKED] = source.prepared
        made[view] = source.filled(view) if source.is_masked else source.prepared
        for number in work.negatives:
            if negative_source(number) == view:
                image = source.filled(number)
                # The published code encodes the first of a batch: `training.views.released`.
                made[number] = image[:1] if work.masks.released else image
    return made


def carrying_masks(
    inputs: EncoderInputs, carry: Callable[[Tensor, Tensor], Tensor]
) -> EncoderInputs:
    """The inputs with every view's mask on board, for a network that sees it.

    Views without a mask get an empty one, so that all have the same number of channels.

    Args:
        inputs: from ``build_inputs``.
        carry: view and bool mask, [B, C or 1, H, W], to what the network takes.
    """
    empty: Tensor | None = None

    def carried(image_BCHW: Tensor, view: int) -> Tensor:
        nonlocal empty
        mask_BCHW = inputs.masks.get(view)
        if mask_BCHW is None:
            if empty is None:
                shape = next(iter(inputs.masks.values()), image_BCHW[:, :1]).shape
                empty = torch.zeros(shape, dtype=torch.bool, device=image_BCHW.device)
            mask_BCHW = empty
        return carry(image_BCHW, mask_BCHW[: len(image_BCHW)])

    numbers = [view for view in inputs.masks if view >= View.NEGATIVE]
    negatives = {
        source: tuple(
            carried(image, view)
            for image, view in zip(
                images, (v for v in numbers if negative_source(v) == source), strict=True
            )
        )
        for source, images in inputs.negatives.items()
    }
    return inputs._replace(
        query_BCHW=carried(inputs.query_BCHW, View.QUERY),
        key_BCHW=carried(inputs.key_BCHW, View.KEY),
        negatives=negatives,
        exchanged_BCHW=None
        if inputs.exchanged_BCHW is None
        else carried(inputs.exchanged_BCHW, _UNMASKED),
    )
