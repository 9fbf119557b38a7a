"""Draw a run's views and masks again from (seed, epoch, sample), at several of its epochs."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.core.errors import check
from pipeline.saliency.interface import three_channels
from pipeline.saliency.mask_generator import MaskGenerator, load_generator
from training.config.derived import declared_views, replayed_sets, stream_config
from training.core.schedules import Moment
from training.data.order import ROWS
from training.data.stream import BatchDataset
from training.randomness.draws import view_group
from training.record.contact_sheet import displayed, shown_views, title_of
from training.report.pictures import (
    Card,
    as_stored,
    grid_overlay,
    picture,
    shrunk,
)
from training.report.state import RunState, or_problems
from training.report.wording import percent, shortened
from training.views.fills import fill_named
from training.views.inputs import EncoderInputs, build_inputs
from training.views.learned import mix_at
from training.views.patches import masked_share
from training.views.spec import EXCHANGED, with_generator

EPOCHS_SHOWN = 4
TILE = 256


def drawn_masks(run: RunState, count: int) -> dict[str, Any]:
    """Draw the run's first samples at several epochs; `InputError` says why they cannot be."""
    check(not run.problems, "; ".join(run.problems))
    redrawn, epochs = Redrawn(run), shown_epochs(run)
    groups = {view_group(view.name) for view in declared_views(redrawn.config)}
    samples = [one for one in redrawn.whole.sample_ids(0).tolist() if one <= ROWS][:count]
    cards, broken = or_problems(partial(_card, redrawn, epochs), samples)
    return {
        "epochs": [epoch + 1 for epoch in epochs],
        "high_pass": redrawn.fill.high_pass,
        "has_hard_negatives": "negative" in groups,
        "exchanges": any(view.name == EXCHANGED for view in redrawn.views_shown),
        "generator": redrawn.generator and redrawn.generator.provenance,
        "cards": cards,
        "broken": broken,
    }


def shown_epochs(run: RunState) -> list[int]:
    """Epochs, counted from 0, spread over what was trained so far."""
    assert run.steps_per_epoch is not None
    last = max(0, -(-run.step // int(run.steps_per_epoch)) - 1)
    return sorted({round(last * i / (EPOCHS_SHOWN - 1)) for i in range(EPOCHS_SHOWN)})


class Redrawn:
    """Draws samples of a run, whose shards and settings can be read, as the run saw them."""

    def __init__(self, run: RunState) -> None:
        assert run.config is not None
        assert run.info is not None
        self.config, pixels = run.config, run.info.pixels
        self.fill = fill_named(run.config.fill).of_set(pixels.normalisation)
        query, key, negative, *others = shown_views(run.config)
        exchanged = [view for view in others if view.name == EXCHANGED]
        self.views_shown = (query, key, negative, *exchanged)
        self.generator: MaskGenerator | None = None
        if run.config.masks.strategy == "learned":
            self.generator = load_generator(run.folder)
        stream = replace(stream_config(run.config), on_damaged="raise", views=self.views_shown)
        old, parts = replayed_sets(run.config), (run.config.shards, run.info, stream)
        self._dataset = partial(BatchDataset, *parts, replayed=old)
        self.whole = self._dataset(rank=0, world_size=1)

    def views(self, sample: int, epoch: int) -> tuple[EncoderInputs, int] | None:
        """What the encoders saw of a sample, and its row; None if the epoch left the sample out."""
        steps, batch = self.whole.steps_per_epoch, self.config.batch_size
        order = self.whole.sample_ids(epoch * steps, range(steps * batch))
        places = np.flatnonzero(order == sample)
        if len(places) == 0:
            return None
        step, row = divmod(int(places[0]), batch)
        dataset = self.whole
        if self.config.masks.behaviour == "paper":
            # As one rank of as many as the batch has samples, so that only this sample is read.
            # The released behaviour shares draws over the batch and needs all of it.
            dataset, row = self._dataset(rank=row, world_size=batch), 0
        seen, views = dataset[epoch * steps + step], self.views_shown
        if self.generator is not None:
            moment = Moment(epoch * steps + step, steps, self.config.epochs * steps)
            mix = mix_at(self.config.masks.learned, moment)
            views = with_generator(views, self.generator, mix)
        return build_inputs(seen, views, masks=self.config.masks, fill=self.fill), row


def _card(redrawn: Redrawn, epochs: list[int], sample: int) -> Card:
    reader = redrawn.whole.reader
    key, (image, saliency) = reader.read(sample).key, reader.read_pixels(sample)
    strips = [("", as_stored(shrunk(three_channels(image), TILE), saliency, key))]
    for epoch in epochs:
        found = redrawn.views(sample, epoch)
        text = f"Epoch {epoch + 1}"
        if found is None:
            text += " left it out: it was in the last incomplete batch."
        pictures = [] if found is None else _pictures(redrawn, *found, f"{key}, {text}")
        strips.append((text, pictures))
    return Card(shortened(key, 60), strips)


def _pictures(redrawn: Redrawn, inputs: EncoderInputs, row: int, name: str) -> list[Any]:
    """The views of one sample, with grid, foreground and the patches masked by more than half."""
    pictures = []
    for view in redrawn.views_shown:
        title = title_of(view)
        images_BCHW = inputs.views[view.name]  # one of a whole batch stands for all
        foreground_GG = inputs.foreground[view.crop.name][row]
        said, masked_GG = "unmasked", None
        if view.name in inputs.masks:
            mask_CHW = inputs.masks[view.name][row]
            front, back = masked_share(mask_CHW[None], foreground_GG[None])
            said = f"{100 * float(front):.0f}/{percent(float(back), 0)}"
            grid = redrawn.config.views.grid
            share_CGG = torch.nn.functional.adaptive_avg_pool2d(mask_CHW.float(), grid)
            masked_GG = (share_CGG > 0.5).any(dim=0).numpy()
        fill, image_CHW = redrawn.fill, images_BCHW[min(row, len(images_BCHW) - 1)]
        pixels = displayed(image_CHW, fill.high_pass, fill.normalisation)
        alt = f"{name}, {title}, foreground / background masked: {said}"
        overlay = grid_overlay(foreground_GG.numpy(), masked_GG)
        pictures.append(picture(pixels, alt, overlay=overlay, label=f"{title}, {said}"))
    return pictures
