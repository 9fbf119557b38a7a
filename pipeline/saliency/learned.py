"""`learned`: what a run's mask generator hides to make its task hardest.

The generator of `--masks.strategy learned` (`mask_generator.py`) looks at the whole image, and its
logits are stretched to [0, 1].
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import ImageError, InputError, check
from pipeline.core.image_names import IMAGE_SUFFIXES
from pipeline.images.codecs import decode_source
from pipeline.saliency.interface import (
    MAX_ASPECT,
    Image,
    Map,
    SaliencySource,
    check_digest,
    flat_map,
    is_flat,
    resize,
    spread_out,
    to_grid,
)

if TYPE_CHECKING:
    from pipeline.saliency.mask_generator import MaskGenerator

MAX_SIDE = 2048
MEAN_SIDE = 56
"""Cells of a mean map along a side."""


@dataclass(frozen=True, kw_only=True)
class Learned(SaliencySource):
    """The logits of a mask generator, those of the first pass of a sequential one.

    Attributes:
        weights: a run of --masks.strategy learned, one of its checkpoints, or a generator.pth that
            has its generator.json beside it.
        slot: number of the map, from 0, of a generator of kind slots.
        side: shorter side of the network's input in pixels; 0: that of the training's views.
        mean_of: a folder of images; then each image gets the mean of these images' maps, a control
            that knows the generator's habits and not the image.
        weights_digest: sha256 that the weights must have; set by `pinned`.
    """

    weights: str = ""
    slot: int = 0
    side: int = 0
    mean_of: str = ""
    weights_digest: str = ""

    def __post_init__(self) -> None:
        check(bool(self.weights), "saliency learned wants a run's generator: learned:weights=RUN")
        check(
            0 <= self.side <= MAX_SIDE,
            f"saliency learned wants a side of 0 to {MAX_SIDE}, got {self.side}",
        )

    def pinned(self) -> "Learned":
        """The source with absolute paths and the digest of its weights.

        Raises:
            InputError: there is no such generator, or it has no such map.
        """
        path, info = Path(self.weights).expanduser().resolve(), self._generator().info
        check(
            0 <= self.slot < info.num_maps,
            f"the mask generator {self.weights} has {info.num_maps} maps: no slot={self.slot}",
        )
        folder = str(Path(self.mean_of).expanduser().resolve()) if self.mean_of else ""
        return replace(self, weights=str(path), mean_of=folder, weights_digest=info.weights_sha256)

    def parameters(self) -> dict[str, object]:
        """What decides the maps, with names in place of paths and the digest of the weights."""
        info = self._generator().info
        named = {"weights": Path(self.weights).name, "mean_of": Path(self.mean_of).name}
        used = {"side": self.side or info.view_size, "weights_digest": info.weights_sha256}
        return {**super().parameters(), **named, **used}

    def map_image(self, image: Image) -> Map:
        """The map of an image, a value for each patch."""
        if is_flat(image):
            return flat_map()
        return (
            mean_map(replace(self, mean_of=""), self.mean_of) if self.mean_of else self.own(image)
        )

    def own(self, image: Image) -> Map:
        """The map of an image that is not flat, without regard to `mean_of`."""
        import torch

        generator = self._generator()
        info, (height, width) = generator.info, image.shape[:2]
        short = max(1, round((self.side or info.view_size) / info.patch))
        cells = (
            min(MAX_ASPECT * short, round(short * side / min(height, width)))
            for side in (height, width)
        )
        scaled = resize(image, tuple(info.patch * count for count in cells))
        view = ((scaled / 255 - info.mean) / info.std).astype(np.float32).transpose(2, 0, 1)
        with torch.inference_mode():
            logits_K = generator(torch.from_numpy(np.ascontiguousarray(view))[None])[0]
        return spread_out(logits_K[self.slot].numpy())

    def _generator(self) -> "MaskGenerator":
        return load_once(self.weights, self.weights_digest)


@functools.lru_cache(maxsize=2)
def load_once(weights: str, planned: str) -> "MaskGenerator":
    """A generator, loaded once in each process; `InputError` if it has another digest."""
    # Imported here, so that the other sources' processes do without torch.
    from pipeline.saliency.mask_generator import load_generator

    generator = load_generator(Path(weights).expanduser())
    check_digest(f"learned: the weights {weights}", generator.info.weights_sha256, planned)
    return generator


@functools.lru_cache(maxsize=2)
def mean_map(source: Learned, folder: str) -> Map:
    """The mean of a source's maps of the images in a folder; computed once in each process.

    Raises:
        InputError: no image in the folder that can be used.
    """
    maps = []
    for path in sorted(Path(folder).expanduser().rglob("*")):
        if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
            try:
                image = decode_source(path.read_bytes()).pixels
            except ImageError:
                continue
            if not is_flat(image):
                maps.append(to_grid(source.own(image), MEAN_SIDE))
    if not maps:
        raise InputError(f"saliency learned: no image in mean_of={folder} can be used")
    return spread_out(np.mean(maps, axis=0))
