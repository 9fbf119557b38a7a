"""A run's views and masks, drawn again from (seed, epoch, sample) at several of its epochs."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.errors import ImageError, InputError
from pipeline.images.codecs import decode_saliency, decode_stored
from training.config.pretrain import PretrainConfig
from training.data.stream import BatchDataset
from training.randomness.draws import View, sample_seeds
from training.record.contact_sheet import displayed
from training.report.page import Block, Card, Gallery, Key, Picture, Section, Strip, Words, missing
from training.report.pictures import boxes_overlay, grid_overlay, heat, picture, shrunk
from training.report.run.state import RunState
from training.report.wording import percent, shortened
from training.views.crops import draw_crops
from training.views.fills import Fill, fill_named
from training.views.inputs import EncoderInputs, build_inputs
from training.views.masks import masked_share

EPOCHS_SHOWN = 4
TILE = 256
LEGEND = (
    Key("foreground", "on-front", "box"),
    Key("masked patch", "on-mask", "dot"),
    Key("crop of the query", "on-query", "box"),
    Key("crop of the key", "on-key", "box"),
)
COLUMNS = ("query", "key", "hard negative")


class Redrawn:
    """Draws samples of a run as it saw them.

    Args:
        run: whose shards and settings are there.
    """

    def __init__(self, run: RunState) -> None:
        assert run.config is not None
        assert run.info is not None
        assert run.steps_per_epoch is not None
        self.config: PretrainConfig = run.config
        self.fill: Fill = fill_named(self.config.fill)
        self._info = run.info
        self._stream = replace(self.config.stream, on_damaged="raise")
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
        """What the encoders saw of a sample, and its row in that; None: the epoch left it out.

        Raises:
            InputError: the sample is damaged.
        """
        first, batch = epoch * self._steps, self.config.batch_size
        order = self._whole.sample_ids(first, range(self._steps * batch))
        places = np.flatnonzero(order == sample)
        if len(places) == 0:
            return None
        step, place = divmod(int(places[0]), batch)
        # As one rank of as many as there are places: nothing else of the batch is read. What the
        # published code shares in a batch needs all of it.
        alone = not self.config.masks.released
        dataset = self._dataset(place, batch) if alone else self._whole
        inputs = build_inputs(
            dataset[first + step],
            masks=self.config.masks,
            fill=self.fill,
            negatives=(View.NEGATIVE,),
        )
        return inputs, 0 if alone else place

    def crops(self, sample: int, epoch: int, height: int, width: int) -> NDArray[np.int64]:
        """Top, left, height and width of the crops of query and key, pixels."""
        seeds = sample_seeds(self.config.seed, epoch, np.array([sample]))
        sides = np.array([height]), np.array([width])
        found = [
            draw_crops(seeds, *sides, view=view, config=self.config.views)
            for view in (View.QUERY, View.KEY)
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


def masks_section(run: RunState, count: int) -> Section:
    """Some samples with their views at several epochs."""
    return Section(anchor="masks", title="What the encoders saw", blocks=_blocks(run, count))


def _blocks(run: RunState, count: int) -> list[Block]:
    problem = run.shards_problem or run.config_problem
    if problem:
        return [missing(f"Views and masks cannot be drawn again: {problem}")]
    redrawn = Redrawn(run)
    epochs = shown_epochs(run)
    cards, broken = [], []
    for number in redrawn.first_samples(count):
        try:
            cards.append(_card(redrawn, number, epochs))
        except InputError as error:
            broken.append(missing(f"A sample cannot be shown: {error}"))
    when = f"at epochs {', '.join(str(epoch + 1) for epoch in epochs)}"
    masks = redrawn.config.masks
    used = redrawn.config.method.negative_views
    words = (
        f"The run's first samples {when}, drawn again from its seed, as the encoders saw them: "
        f"strategy {masks.strategy}, fill {redrawn.config.fill}."
    )
    words += " Below a view: the masked share of its foreground / of its background."
    if masks.strategy == "none":
        words += " No view is masked."
    if not used:
        words += " Hard negatives are shown as they would be; this run's loss had none."
    if redrawn.fill.high_pass:
        words += " High-passed views lie around 0 and are shown around mid-grey."
    return [Words(text=words), Gallery(cards=cards, large=True, keys=LEGEND), *broken]


def shown_epochs(run: RunState) -> list[int]:
    """Epochs, from 0, that are spread over what was trained so far."""
    assert run.steps_per_epoch is not None
    last = max(0, -(-run.step // int(run.steps_per_epoch)) - 1)
    return sorted({round(last * i / (EPOCHS_SHOWN - 1)) for i in range(EPOCHS_SHOWN)})


def _card(redrawn: Redrawn, number: int, epochs: list[int]) -> Card:
    key, image, saliency = redrawn.sample(number)
    height, width = image.shape[:2]
    small = shrunk(image, TILE)
    top = Strip(
        (
            picture(
                small,
                f"{key} with the crops of epoch {epochs[0] + 1}",
                overlay=_crop_boxes(redrawn, number, epochs[0], height, width),
                label=f"image, crops of epoch {epochs[0] + 1}",
            ),
            picture(heat(small, saliency), f"{key}: saliency as heat", label="saliency"),
        )
    )
    strips = [top]
    for epoch in epochs:
        found = redrawn.views(number, epoch)
        if found is None:
            strips.append(
                Strip((), f"Epoch {epoch + 1} left it out: it was in the last incomplete batch.")
            )
            continue
        strips.append(_epoch_strip(redrawn, *found, key, epoch))
    return Card(title=shortened(key, 60), strips=strips)


def _crop_boxes(redrawn: Redrawn, number: int, epoch: int, height: int, width: int) -> str:
    query, crop = redrawn.crops(number, epoch, height, width).tolist()
    return boxes_overlay({"q": tuple(query), "k": tuple(crop)}, height, width)


def _epoch_strip(redrawn: Redrawn, inputs: EncoderInputs, row: int, key: str, epoch: int) -> Strip:
    grid = redrawn.config.views.grid
    negatives_BCHW = inputs.negatives[View.KEY][0]
    views = {
        View.QUERY: inputs.query_BCHW[row],
        View.KEY: inputs.key_BCHW[row],
        View.NEGATIVE: negatives_BCHW[min(row, len(negatives_BCHW) - 1)],
    }
    pictures: list[Picture] = []
    for title, (view, pixels_CHW) in zip(COLUMNS, views.items(), strict=True):
        source = View.QUERY if view == View.QUERY else View.KEY
        foreground_GG = inputs.foreground_VBGG[source, row]
        mask_CHW = inputs.masks[view][row] if view in inputs.masks else None
        said = "unmasked"
        if mask_CHW is not None:
            in_front, behind = masked_share(mask_CHW[None], foreground_GG[None])
            said = f"{100 * float(in_front):.0f}/{percent(float(behind), 0)}"
        pictures.append(
            picture(
                displayed(pixels_CHW, redrawn.fill.high_pass),
                f"{key}, {title} of epoch {epoch + 1}: masked {said} of foreground / background"
                if mask_CHW is not None
                else f"{key}, {title} of epoch {epoch + 1}, unmasked",
                overlay=grid_overlay(
                    foreground_GG.numpy(),
                    None if mask_CHW is None else _masked_patches(mask_CHW, grid),
                    grid=grid,
                ),
                label=f"{title}, {said}",
                crisp=redrawn.config.views.size <= 96,
            )
        )
    return Strip(pictures, f"Epoch {epoch + 1}")


def _masked_patches(mask_CHW: torch.Tensor, grid: int) -> NDArray[np.bool_]:
    """Patches of which most is masked in any channel."""
    side = mask_CHW.shape[-1] // grid
    share = mask_CHW.float().unfold(1, side, side).unfold(2, side, side).mean(dim=(-2, -1))
    marked: NDArray[np.bool_] = (share > 0.5).any(dim=0).numpy()
    return marked
