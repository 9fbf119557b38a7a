"""A picture of what the encoders see: image, saliency, foreground and every view."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.images.filters import IMAGENET_MEAN, IMAGENET_STD
from training.config.pretrain import PretrainConfig
from training.data.stream import BatchDataset
from training.randomness.draws import View
from training.views.fills import fill_named
from training.views.inputs import build_inputs

COLUMNS = ("image", "saliency", "foreground of query", "query", "key", "hard negative")
EXCHANGED = "on another background"
TILE, GAP, HEADER = 144, 6, 26
INK, PAPER = (40, 40, 44), (250, 250, 248)

Picture = NDArray[np.uint8]


def write_contact_sheet(
    path: Path, dataset: BatchDataset, config: PretrainConfig, *, step: int = 0, rows: int = 8
) -> None:
    """Draws the first samples of a global step as the run will see them.

    Args:
        path: PNG to write.
        dataset: batches by step.
        config: the run.
        step: which global step.
        rows: how many samples.
    """
    fill = fill_named(config.fill)
    batch = dataset[step]
    inputs = build_inputs(
        batch,
        masks=config.masks,
        fill=fill,
        negatives=(View.NEGATIVE,),
        exchange=config.method.exchange,
    )
    negatives_BCHW, exchanged_BCHW = inputs.negatives[View.KEY][0], inputs.exchanged_BCHW
    columns = COLUMNS if exchanged_BCHW is None else (*COLUMNS, EXCHANGED)
    sheet = Image.new(
        "RGB",
        (GAP + len(columns) * (TILE + GAP), HEADER + rows * (TILE + GAP)),
        PAPER,
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for column, title in enumerate(columns):
        draw.text((GAP + column * (TILE + GAP), 6), title, fill=INK, font=font)
    damaged = {damage.position for damage in batch.damages}
    sound = [row for row in range(len(batch.sample_ids_B)) if row not in damaged]
    for line, row in enumerate(sound[:rows]):
        sample = dataset.reader.read(int(batch.sample_ids_B[row]))
        image, saliency = decode_stored(sample.image), decode_saliency(sample.saliency)
        query_view = batch.images_VBCHW[View.QUERY, row].permute(1, 2, 0).numpy()
        tiles = [
            _letterbox(image),
            _letterbox(_heat(image, saliency)),
            _tile(_dim(query_view, inputs.foreground_VBGG[View.QUERY, row].numpy())),
            _tile(displayed(inputs.query_BCHW[row], fill.high_pass)),
            _tile(displayed(inputs.key_BCHW[row], fill.high_pass)),
            _tile(displayed(negatives_BCHW[min(row, len(negatives_BCHW) - 1)], fill.high_pass)),
        ]
        if exchanged_BCHW is not None:
            tiles.append(_tile(displayed(exchanged_BCHW[row], fill.high_pass)))
        for column, tile in enumerate(tiles):
            place = (GAP + column * (TILE + GAP), HEADER + line * (TILE + GAP))
            sheet.paste(Image.fromarray(tile), place)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _tile(picture: Picture) -> Picture:
    return cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_NEAREST).astype(np.uint8)


def _letterbox(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    scale = TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tile = np.full((TILE, TILE, 3), PAPER, dtype=np.uint8)
    top, left = (TILE - size[1]) // 2, (TILE - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = cv2.resize(
        picture, size, interpolation=cv2.INTER_AREA
    )
    return tile


def _heat(image: Picture, saliency: Picture) -> Picture:
    height, width = image.shape[:2]
    large = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(large.astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    return (0.35 * image + 0.65 * colours).astype(np.uint8)


def _dim(view: Picture, foreground_GG: NDArray[np.bool_]) -> Picture:
    side = view.shape[0] // foreground_GG.shape[0]
    weight = np.kron(np.where(foreground_GG, 1.0, 0.2), np.ones((side, side)))[:, :, None]
    return (view * weight + 255 * 0.08 * (1 - weight)).astype(np.uint8)


def displayed(view_CHW: torch.Tensor, high_pass: bool) -> Picture:
    """Undoes the normalisation; a high-passed view, around 0, is shown around mid-grey."""
    view_HWC = view_CHW.float().permute(1, 2, 0).numpy()
    shown = (
        0.5 + 0.3 * view_HWC
        if high_pass
        else view_HWC * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)
    )
    return (np.clip(shown, 0, 1) * 255).astype(np.uint8)
