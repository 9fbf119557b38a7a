"""`learned`: what the mask generator of a run hides, as it looks at the whole image."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import ImageError, InputError, check
from pipeline.core.image_names import IMAGE_SUFFIXES
from pipeline.images.source_image import decode_source
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

MEAN_SIDE = 56
"""Cells of a mean map along a side."""


@dataclass(frozen=True, kw_only=True)
class Learned(SaliencySource):
    """The generator's logits (of the first pass of kind sequential), stretched to [0, 1].

    Attributes:
        weights: a run of --masks.strategy learned, one of its checkpoints, or a generator.pth.
        slot: number of the map, from 0, of kind slots.
        side: shorter side of the network's input in pixels; 0: that of the training's views.
        mean_of: a folder of images: each image gets the mean of their maps, a control that knows
            the generator's habits and not the image.
        weights_digest: sha256 that the weights must have; set by `pinned`.
    """

    weights: str = ""
    slot: int = 0
    side: int = 0
    mean_of: str = ""
    weights_digest: str = ""

    def __post_init__(self) -> None:
        check(bool(self.weights), "saliency learned wants a run's generator: learned:weights=RUN")
        check(0 <= self.side <= 2048, f"saliency learned wants a side to 2048, got {self.side}")

    def pinned(self) -> "Learned":
        """The source with an absolute path and the digest of its weights.

        Raises:
            InputError: there is no such generator, or it has no such map.
        """
        generator, digest = load_once(self.weights, self.weights_digest)
        maps = generator.num_maps
        check(0 <= self.slot < maps, f"{self.weights} has {maps} maps: no slot={self.slot}")
        weights = str(Path(self.weights).expanduser().resolve())
        return replace(self, weights=weights, weights_digest=digest)

    def parameters(self) -> dict[str, object]:
        """What decides the maps, with the names of files and the digest of the weights."""
        generator, digest = load_once(self.weights, self.weights_digest)
        named = {"weights": Path(self.weights).name, "mean_of": Path(self.mean_of).name}
        used = {"side": self.side or generator.view_size, "weights_digest": digest}
        return {**super().parameters(), **named, **used}

    def map_image(self, image: Image) -> Map:
        """The map of an image, a value for each patch."""
        if is_flat(image):
            return flat_map()
        return (
            mean_map(replace(self, mean_of=""), self.mean_of) if self.mean_of else self._own(image)
        )

    def _own(self, image: Image) -> Map:
        import torch  # other sources' processes do without it

        from pipeline.images.filters import normalise

        generator, _ = load_once(self.weights, self.weights_digest)
        sides, patch = image.shape[:2], generator.patch
        short = max(1, round((self.side or generator.view_size) / patch))
        cells = (min(MAX_ASPECT * short, round(short * side / min(sides))) for side in sides)
        height, width = (patch * count for count in cells)
        view_HW3 = torch.from_numpy(resize(image, (height, width))).float() / 255
        with torch.inference_mode():
            logits_K = generator(normalise(view_HW3.permute(2, 0, 1)[None]))[0]
        return spread_out(logits_K[self.slot].numpy())


@functools.lru_cache(maxsize=2)
def load_once(weights: str, planned: str) -> "tuple[MaskGenerator, str]":
    """A generator and its digest, once in each process; `InputError` for another digest."""
    from pipeline.backbone.folder import weights_digest
    from pipeline.saliency.mask_generator import load_generator

    generator = load_generator(Path(weights).expanduser())
    digest = weights_digest(generator.state_dict())
    check_digest(f"learned: the weights {weights}", digest, planned)
    return generator, digest


@functools.lru_cache(maxsize=2)
def mean_map(source: Learned, folder: str) -> Map:
    """The mean of a source's maps of the images in a folder, once in each process."""
    maps = []
    for path in sorted(Path(folder).expanduser().rglob("*")):
        if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
            try:
                maps.append(
                    to_grid(source.map_image(decode_source(path.read_bytes()).pixels), MEAN_SIDE)
                )
            except ImageError:
                continue
    if not maps:
        raise InputError(f"saliency learned: no image in mean_of={folder} can be used")
    return spread_out(np.mean(maps, axis=0))
