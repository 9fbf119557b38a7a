"""Which images are scored, and with which mask."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from pipeline.core.errors import ImageError, InputError
from pipeline.core.image_names import IMAGE_SUFFIXES
from pipeline.images.codecs import decode_source
from pipeline.saliency.interface import Image
from pipeline.saliency.quality import Mask

ASPECT_SLACK = 1.0
"""How many of a mask's pixels its sides may be off the image's aspect: rounding."""

Half = Literal["all", "choose", "report"]


@dataclass(frozen=True)
class ScoredImage:
    """An image that has a mask.

    Attributes:
        name: path relative to the folder of images, with forward slashes.
        image: its file.
        mask: its mask's file.
        map: its map, made elsewhere, for sources that take one; None where there is none.
    """

    name: str
    image: Path
    mask: Path
    map: Path | None = None


@dataclass(frozen=True)
class Pairs:
    """What two folders have in common.

    Attributes:
        paired: sorted by name.
        without_mask: names of images that have no mask.
    """

    paired: tuple[ScoredImage, ...]
    without_mask: tuple[str, ...]


def pair_up(images: Path, masks: Path, *, half: Half = "all", maps: Path | None = None) -> Pairs:
    """Find the mask of each image: the same relative path up to the suffix.

    Args:
        images: folder, of any depth.
        masks: folder.
        half: which images: parameters are chosen on one half and reported on the other. The half
            of an image is decided by its name alone.
        maps: folder of maps that another program made, named like the masks.

    Raises:
        InputError: not a folder, no pair, or two masks of one name.
    """
    mask_of = _by_stem(masks)
    map_of = {} if maps is None else _by_stem(maps)
    paired, without_mask = [], []
    for path in _files(images):
        name = path.relative_to(images)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if half not in ("all", half_of(name.as_posix())):
            continue
        stem = name.with_suffix("").as_posix()
        if stem in mask_of:
            pair = ScoredImage(name.as_posix(), path, mask_of[stem], map_of.get(stem))
            paired.append(pair)
        else:
            without_mask.append(name.as_posix())
    if not paired:
        raise InputError(
            f"no image in {images} (half: {half}) has a mask in {masks}: wanted is a mask of the "
            "same relative path up to the suffix"
        )
    return Pairs(tuple(paired), tuple(without_mask))


def half_of(name: str) -> Literal["choose", "report"]:
    """The half that an image of this relative name belongs to."""
    odd = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[0] & 1
    return "report" if odd else "choose"


def read_pair(pair: ScoredImage) -> tuple[Image, Mask]:
    """The pixels of an image and of its mask, upright.

    Returns:
        uint8 [H, W, 3] and bool [h, w]: above half of the range, or above 0 in a mask of 0 and 1.

    Raises:
        ImageError: one of them cannot be decoded; says which.
        InputError: the mask has another aspect than the image, or a file cannot be read.
    """
    pixels = _decode(pair.image, "the image")
    levels = cv2.cvtColor(_decode(pair.mask, "its mask"), cv2.COLOR_RGB2GRAY)
    (height, width), (rows, columns) = pixels.shape[:2], levels.shape
    if (
        abs(columns - rows * width / height) > ASPECT_SLACK
        and abs(rows - columns * height / width) > ASPECT_SLACK
    ):
        raise InputError(
            f"the mask {pair.mask} is {columns} x {rows}, of another aspect than its image, "
            f"{width} x {height}: give it the image's"
        )
    threshold = 0 if levels.max() <= 1 else 127
    return pixels, np.asarray(levels > threshold)


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _files(folder):
        if path.suffix.lower() not in IMAGE_SUFFIXES | {".npy"}:
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise InputError(
                f"{folder} has two files of one name, {found[stem].name} and "
                f"{path.name}: remove one"
            )
        found[stem] = path
    return found


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _decode(path: Path, what: str) -> Image:
    data = read_bytes(path)
    try:
        return decode_source(data).pixels
    except ImageError as error:
        raise ImageError(f"{what} cannot be used: {error}") from error


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        InputError: it cannot be read; says why.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
