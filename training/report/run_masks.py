"""Draw a run's views and masks again from (seed, epoch, sample), at several of its epochs."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.errors import ImageError, InputError
from pipeline.images.codecs import decode_saliency, decode_stored
from training.config.derived import declared_views, stream_config
from training.config.pretrain import PretrainConfig
from training.data.stream import BatchDataset
from training.randomness.draws import KEY, QUERY, sample_seeds, view_number
from training.record.contact_sheet import displayed, shown_views
from training.report.pictures import (
    Card,
    Strip,
    boxes_overlay,
    grid_overlay,
    heat,
    picture,
    shrunk,
)
from training.report.run.state import RunState
from training.report.wording import percent, shortened
from training.views.crops import draw_crops
from training.views.fills import Fill, fill_named
from training.views.inputs import EncoderInputs, build_inputs
from training.views.masks import masked_share

EPOCHS_SHOWN = 4
TILE = 256
COLUMNS = ("query", "key", "hard negative")


class Redrawn:
    """Draws samples of a run as the run saw them.

    Args:
        run: a run whose shards and settings can be read.
    """

    def __init__(self, run: RunState) -> None:
        assert run.config is not None
        assert run.info is not None
        assert run.steps_per_epoch is not None
        self.config: PretrainConfig = run.config
        self.fill: Fill = fill_named(self.config.fill)
        self._info = run.info
        self.views_shown = shown_views(self.config)[:3]
        self._stream = replace(
            stream_config(self.config), on_damaged="raise", views=self.views_shown
        )
        self._steps = int(run.steps_per_epoch)
        self._whole = self._dataset(0, 1)

    def _dataset(self, rank: int, world_size: int) -> BatchDataset:
        return BatchDataset(
            self.config.shards, self._info, self._stream, rank=rank, world_size=world_size
        )

    def first_samples(self, count: int) -> list[int]:
        """The samples that the run begins with."""
        return [int(number) for number in self._whole.sample_ids(0)[:count]]

    def views(self, sample: int, epoch: int) -> tuple[EncoderInputs, int] | None:
        """What the encoders saw of a sample, and its row; None if the epoch left the sample out.

        Raises:
            InputError: the sample is damaged.
        """
        first, batch = epoch * self._steps, self.config.batch_size
        order = self._whole.sample_ids(first, range(self._steps * batch))
        places = np.flatnonzero(order == sample)
        if len(places) == 0:
            return None
        step, place = divmod(int(places[0]), batch)
        # As one rank of as many as the batch has samples, so that only this sample is read. The
        # released behaviour shares draws over the batch and needs all of it.
        alone = not self.config.masks.released
        dataset = self._dataset(place, batch) if alone else self._whole
        inputs = build_inputs(
            dataset[first + step], self.views_shown, masks=self.config.masks, fill=self.fill
        )
        return inputs, 0 if alone else place

    def crops(self, sample: int, epoch: int, height: int, width: int) -> NDArray[np.int64]:
        """Top, left, height and width of the crops of query and key, pixels."""
        seeds = sample_seeds(self.config.seed, epoch, np.array([sample]))
        sides = np.array([height]), np.array([width])
        found = [
            draw_crops(seeds, *sides, view=view_number(name), config=self.config.views)
            for name in (QUERY, KEY)
        ]
        return np.array([[int(side[0]) for side in crops[:4]] for crops in found], dtype=np.int64)

    def sample(self, number: int) -> tuple[str, NDArray[np.uint8], NDArray[np.uint8]]:
        """Key, image and saliency as they are stored.

        Raises:
            InputError: it cannot be read.
        """
        stored = self._whole.reader.read(number)
        try:
            return stored.key, decode_stored(stored.image), decode_saliency(stored.saliency)
        except ImageError as error:
            raise InputError(f"sample {stored.key} in {stored.shard}: {error}") from error


def drawn_masks(run: RunState, count: int) -> dict[str, Any]:
    """Draw the run's first samples with their views at several epochs, for `run.html`."""
    problem = run.shards_problem or run.config_problem
    if problem:
        return {"problem": problem}
    redrawn = Redrawn(run)
    epochs = shown_epochs(run)
    cards, broken = [], []
    for number in redrawn.first_samples(count):
        try:
            cards.append(_card(redrawn, number, epochs))
        except InputError as error:
            broken.append(str(error))
    return {
        "problem": "",
        "epochs": [epoch + 1 for epoch in epochs],
        "high_pass": redrawn.fill.high_pass,
        "has_hard_negatives": any(
            view.group == "negative" for view in declared_views(redrawn.config)
        ),
        "cards": cards,
        "broken": broken,
    }


def shown_epochs(run: RunState) -> list[int]:
    """Epochs, counted from 0, spread over what was trained so far."""
    assert run.steps_per_epoch is not None
    last = max(0, -(-run.step // int(run.steps_per_epoch)) - 1)
    return sorted({round(last * i / (EPOCHS_SHOWN - 1)) for i in range(EPOCHS_SHOWN)})


def _card(redrawn: Redrawn, number: int, epochs: list[int]) -> Card:
    key, image, saliency = redrawn.sample(number)
    height, width = image.shape[:2]
    small = shrunk(image, TILE)
    query, crop = redrawn.crops(number, epochs[0], height, width).tolist()
    first = f"crops of epoch {epochs[0] + 1}"
    top = (
        picture(
            small,
            f"{key} with the {first}",
            overlay=boxes_overlay({"q": tuple(query), "k": tuple(crop)}, height, width),
            label=f"image, {first}",
        ),
        picture(heat(small, saliency), f"{key}: saliency as heat", label="saliency"),
    )
    strips = [Strip(top)]
    for epoch in epochs:
        found = redrawn.views(number, epoch)
        if found is None:
            left_out = f"Epoch {epoch + 1} left it out: it was in the last incomplete batch."
            strips.append(Strip((), left_out))
        else:
            strips.append(_epoch_strip(redrawn, *found, key, epoch))
    return Card(shortened(key, 60), strips)


def _epoch_strip(redrawn: Redrawn, inputs: EncoderInputs, row: int, key: str, epoch: int) -> Strip:
    pictures = []
    for title, view in zip(COLUMNS, redrawn.views_shown, strict=True):
        images_BCHW = inputs.views[view.name]
        pixels_CHW = images_BCHW[min(row, len(images_BCHW) - 1)]
        foreground_GG = inputs.foreground[view.crop.name][row]
        mask_CHW = inputs.masks[view.name][row] if view.name in inputs.masks else None
        said, masked_GG = "unmasked", None
        if mask_CHW is not None:
            front, back = masked_share(mask_CHW[None], foreground_GG[None])
            said = f"{100 * float(front):.0f}/{percent(float(back), 0)}"
            masked_GG = _masked_patches(mask_CHW, redrawn.config.views.grid)
        pictures.append(
            picture(
                displayed(pixels_CHW, redrawn.fill.high_pass),
                f"{key}, {title} of epoch {epoch + 1}, foreground / background masked: {said}",
                overlay=grid_overlay(foreground_GG.numpy(), masked_GG),
                label=f"{title}, {said}",
            )
        )
    return Strip(pictures, f"Epoch {epoch + 1}")


def _masked_patches(mask_CHW: torch.Tensor, grid: int) -> NDArray[np.bool_]:
    """Patches that are masked by more than half in any channel."""
    side = mask_CHW.shape[-1] // grid
    share = mask_CHW.float().unfold(1, side, side).unfold(2, side, side).mean(dim=(-2, -1))
    marked: NDArray[np.bool_] = (share > 0.5).any(dim=0).numpy()
    return marked
