"""A picture of what the encoders see: image, saliency, foreground and every view."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.images.pixel_format import IMAGENET, Normalisation
from pipeline.saliency.interface import three_channels
from pipeline.storage.atomic import atomic_file
from training.config.derived import declared_views, view_settings
from training.config.pretrain import PretrainConfig
from training.data.stream import BatchDataset
from training.randomness.draws import KEY, QUERY, view_group
from training.views.fills import fill_named
from training.views.inputs import build_inputs
from training.views.spec import EXCHANGED, ViewSpec

FIRST_COLUMNS = ("image", "saliency", "foreground of query")
TITLES = {
    "negative": "hard negative",
    "exchanged": "on another background",
    "matched": "another's object",
}
"""Titles of views whose names are not their titles, by group."""
TILE, GAP, HEADER = 144, 6, 26
INK, PAPER = (40, 40, 44), (250, 250, 248)
PNG_LEVEL = 3
"""Of zlib: half the time of the default, 6, for 11 % more bytes."""

Picture = NDArray[np.uint8]


def write_contact_sheet(
    path: Path,
    dataset: BatchDataset,
    config: PretrainConfig,
    *,
    step: int = 0,
    rows: int = 8,
    views: tuple[ViewSpec, ...] | None = None,
) -> None:
    """Writes a PNG of the first ``rows`` samples of a global step as the run sees them.

    `views` are `shown_views`, with the generator of learned masks where the run has one.
    """
    fill, views = fill_named(config.fill), views or shown_views(config)
    fill = fill.of_set(dataset.reader.info.pixels.normalisation)
    batch = dataset.with_views(views)[step]
    inputs = build_inputs(batch, views, masks=config.masks, fill=fill)
    columns = (*FIRST_COLUMNS, *map(title_of, views))
    size = GAP + len(columns) * (TILE + GAP), HEADER + rows * (TILE + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    lefts = range(GAP, size[0], TILE + GAP)
    for left, title in zip(lefts, columns, strict=True):
        draw.text((left, 6), title, fill=INK, font=font)
    damaged = {damage.position for damage in batch.damages}
    sound = [row for row in range(len(batch.sample_ids_B)) if row not in damaged]
    for line, row in enumerate(sound[:rows]):
        image, saliency = dataset.read_pixels(int(batch.sample_ids_B[row]))
        image = three_channels(image)
        query = three_channels(batch.crops[QUERY].images_BCHW[row].permute(1, 2, 0).numpy())
        foreground = _dim(query, inputs.foreground[QUERY][row].numpy())
        tiles = [_letterbox(image), _letterbox(heat(image, saliency)), _tile(foreground)]
        for view in views:
            images_BCHW = inputs.views[view.name]  # one of a whole batch stands for all
            image_CHW = images_BCHW[min(row, len(images_BCHW) - 1)]
            tiles.append(_tile(displayed(image_CHW, fill.high_pass, fill.normalisation)))
        for left, tile in zip(lefts, tiles, strict=True):
            sheet.paste(tile, (left, HEADER + line * (TILE + GAP)))
    with atomic_file(path) as file:
        sheet.save(file, "PNG", compress_level=PNG_LEVEL)


def shown_views(config: PretrainConfig) -> tuple[ViewSpec, ...]:
    """The views of a run for the picture: of several hard negatives the first.

    A hard negative is shown even if the method has none, and where some queries are on other
    backgrounds, all of them are shown on one.
    """
    views, settings = declared_views(config), view_settings(config)
    negatives = [view for view in views if view_group(view.name) == "negative"]
    first = negatives[0] if negatives else settings.hard_negative(KEY, 0)
    others = [view for view in views if view not in negatives]
    swaps = (config.masks.strategy, config.masks.exchange) == ("exchange", "swap")
    if swaps and all(view.name != EXCHANGED for view in others):
        others.append(settings.exchanged(1.0))
    return (*others[:2], first, *others[2:])


def title_of(view: ViewSpec) -> str:
    """What a view is called above its picture."""
    return TITLES.get(view_group(view.name), view.name)


def _tile(picture: Picture) -> Image.Image:
    tile = cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_NEAREST)
    return Image.fromarray(tile.astype(np.uint8))


def _letterbox(picture: Picture) -> Image.Image:
    image = Image.fromarray(picture)
    width, height = (max(1, round(TILE * side / max(image.size))) for side in image.size)
    tile = Image.new("RGB", (TILE, TILE), PAPER)
    small = image.resize((width, height), Image.Resampling.BOX)
    tile.paste(small, ((TILE - width) // 2, (TILE - height) // 2))
    return tile


def heat(image: Picture, saliency: Picture) -> Picture:
    """An image under its saliency: dark where saliency is 0, bright yellow where it is 255."""
    height, width = image.shape[:2]
    large = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(large.astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    return (0.35 * image + 0.65 * colours).astype(np.uint8)


def _dim(view: Picture, foreground_GG: NDArray[np.bool_]) -> Picture:
    side = view.shape[0] // foreground_GG.shape[0]
    weight = np.kron(np.where(foreground_GG, 1.0, 0.2), np.ones((side, side)))[:, :, None]
    return (view * weight + 255 * 0.08 * (1 - weight)).astype(np.uint8)


def displayed(
    view_CHW: torch.Tensor, high_pass: bool, normalisation: Normalisation = IMAGENET
) -> Picture:
    """Undoes the normalisation; a high-passed view, around 0, is shown around mid-grey."""
    view_HWC = view_CHW.float().permute(1, 2, 0).numpy()
    mean_C, std_C = np.array(normalisation.mean), np.array(normalisation.std)
    shown_HWC = view_HWC * 0.3 + 0.5 if high_pass else view_HWC * std_C + mean_C
    return three_channels((np.clip(shown_HWC, 0, 1) * 255).astype(np.uint8))
