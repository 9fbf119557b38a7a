"""`scda`: where the last convolutional block of a network is active.

A map is the sum of the block's rectified activations over its channels, the first step of SCDA
(Wei et al., "Selective Convolutional Descriptor Aggregation", 2017), as in arXiv 2309.12757,
stretched to [0, 1]. The paper computes it on every view. Here it is computed once, on the whole
image: the shorter side is scaled to `side` and both sides are rounded to multiples of the network's
stride, so that cells and pixels line up and few different sizes occur.

Networks: torchvision's families in `scda_network.LAST_BLOCK`. Others are refused.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.saliency.interface import (
    MAX_ASPECT,
    Image,
    Map,
    SaliencySource,
    flat_map,
    is_flat,
    resize,
    shrink,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.saliency.scda_network import Localiser

STRIDE = 32
"""Pixels per cell of the last block: the same in all networks that `scda` knows."""
MARGIN = 2 * STRIDE
"""Pixels by which an image is reflected around itself, with edges `reflect`."""
MAX_SIDE = 2048
VIEW_SIZE = 224
FLAT_SIDE = 64
"""Shorter side at which an image is examined for any contrast."""


@dataclass(frozen=True, kw_only=True)
class Scda(SaliencySource):
    """Activation of a network's last convolutional block, summed over its channels.

    Attributes:
        weights: `DEFAULT` or another of torchvision's names (fetched from the network once), a
            local torchvision state dict (.pth), the folder of an exported backbone, or `random`,
            a control without any knowledge.
        network: torchvision's name of the network; empty: resnet50, or what the exported
            backbone is.
        side: shorter side of the network's input, a multiple of 32; 0: 224 as in the paper, or
            more for networks that were made for more. Encoders trained on views of 32 and 64
            pixels, too, find most between 160 and 224.
        edges: what the network sees around the image: `zero`, as in training and in the paper,
            or `reflect` (from side 96 on), at twice the cost. Next to zeros cells are less active,
            whatever the image shows: a centre prior, and the better part of what an untrained or
            briefly trained network seems to know.
        precision: `auto` is bfloat16 on a GPU and on a CPU that multiplies it fast (AMX), and
            float32 elsewhere.
        weights_digest: sha256 that the weights must have; filled in by `pinned`.
    """

    wants_gpu = True
    batch_images = 64  # images of one size go through the network together

    weights: str = "DEFAULT"
    network: str = ""
    side: int = 0
    edges: Literal["zero", "reflect"] = "zero"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    weights_digest: str = ""

    def __post_init__(self) -> None:
        if self.side % STRIDE or not 0 <= self.side <= MAX_SIDE:
            raise InputError(
                f"saliency scda wants a side that is a multiple of {STRIDE} up to {MAX_SIDE}, "
                f"or 0, got {self.side}"
            )
        if self.edges == "reflect" and 0 < self.side <= MARGIN:
            raise InputError(
                f"saliency scda wants a side above {MARGIN} for edges reflect, got {self.side}"
            )
        if not self.weights:
            raise InputError("saliency scda wants weights: a torchvision name, a file or a folder")

    def pinned(self) -> "Scda":
        """The source with the digest of its weights; a local path becomes absolute."""
        path = Path(self.weights).expanduser()
        weights = str(path.resolve()) if path.exists() else self.weights
        return replace(self, weights=weights, weights_digest=self._localiser().weights_digest)

    def parameters(self) -> dict[str, object]:
        """What decides the maps, with the digest of the weights in place of their folder."""
        own = {"side": self._input_side(), "edges": self.edges, "precision": self.precision}
        return {**self._localiser().parameters(), **own}

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute maps.

        Images of one input size go through the network together; maps are fetched when all batches
        have started, so that a GPU works while the next batch is put together.

        Raises:
            InputError: weights that are absent, do not fit, have changed, or are not finite.
        """
        maps = [flat_map() for _ in images]
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, image in enumerate(images):
            if not is_flat(shrink(image, FLAT_SIDE)):
                height, width = image.shape[:2]
                groups[input_size(height, width, self._input_side())].append(number)
        started = []
        for size, numbers in groups.items():
            most = self._localiser().max_batch(size)
            for first in range(0, len(numbers), most):
                part = numbers[first : first + most]
                batch = np.stack([resize(images[number], size) for number in part])
                started.append((part, self._localiser().start(batch)))
        for part, on_device in started:
            for number, saliency in zip(part, self._localiser().fetch(on_device), strict=True):
                maps[number] = saliency
        return maps

    def on_view(self, views01_B3SS: "Tensor", grid: int) -> NDArray[np.float32]:
        """The paper's way: a patch has the activation of its cell of the last block."""
        return self._localiser().on_view(views01_B3SS, grid * STRIDE)

    def _input_side(self) -> int:
        own = self._localiser().preprocessing.view_size
        return self.side or max(VIEW_SIZE, round(own / STRIDE) * STRIDE)

    def _localiser(self) -> "Localiser":
        # Imported here, so that the other sources' processes do without torch.
        from pipeline.saliency.scda_network import localiser_of

        margin = MARGIN if self.edges == "reflect" else 0
        return localiser_of(self.weights, self.network, self.weights_digest, margin, self.precision)


def input_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width at which an image of that height and width goes into the network.

    The shorter side becomes `side`, the longer one keeps the aspect up to 1:4 and is rounded to a
    multiple of the stride: at 224 an image of aspect 4:3 is squeezed by 3.6 %.
    """
    cells = side / min(height, width) / STRIDE
    longest = MAX_ASPECT * side
    return (
        min(longest, max(side, round(height * cells) * STRIDE)),
        min(longest, max(side, round(width * cells) * STRIDE)),
    )
