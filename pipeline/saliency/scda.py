"""`scda`: where the last convolutional block of a network is active.

A map is the sum of the block's rectified activations over its channels, the first step of SCDA
(Wei et al., "Selective Convolutional Descriptor Aggregation", 2017), as in arXiv 2309.12757; sum
and mean give the same map, because it is stretched to [0, 1].

The paper computes it on every view. Here it is computed once, on the whole image: the shorter
side is scaled to `side` and both sides are rounded to multiples of the network's stride, so that
cells and pixels line up and few different sizes occur.

Networks: torchvision's ResNet, ResNeXt and Wide ResNet, and DenseNet, VGG, MobileNet, EfficientNet,
ConvNeXt, RegNet, MNASNet and ShuffleNet; see `scda_network.LAST_BLOCK`. Others are refused.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.saliency.interface import Image, Map, SaliencySource, flat_map, is_flat, shrink
from pipeline.saliency.scda_input import MARGIN, MAX_SIDE, STRIDE, input_size, resize

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.saliency.scda_network import Localiser

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
            more for networks that were made for more.
        edges: what the network sees around the image: `zero`, as in training and in the paper,
            or `reflect` (from side 96 on), at twice the cost. Next to zeros cells are less active,
            whatever the image shows: a centre prior, and the better part of what an untrained or
            briefly trained network seems to know.
        precision: `auto` is bfloat16 on a GPU and on a CPU that multiplies it fast (AMX), and
            float32 elsewhere.
        weights_digest: sha256 that the weights must have; filled in by `pinned`.
    """

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
        if self.edges not in ("zero", "reflect"):
            raise InputError(f"saliency scda knows edges zero and reflect, got {self.edges!r}")
        if self.edges == "reflect" and 0 < self.side <= MARGIN:
            raise InputError(
                f"saliency scda wants a side above {MARGIN} for edges reflect, got {self.side}"
            )
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise InputError(
                f"saliency scda knows precision auto, float32 and bfloat16, got {self.precision!r}"
            )
        if not self.weights:
            raise InputError("saliency scda wants weights: a torchvision name, a file or a folder")

    @property
    def wants_gpu(self) -> bool:
        """Yes: a network."""
        return True

    @property
    def batch_images(self) -> int:
        """Many, because images of one size go through the network together."""
        return 64

    def pinned(self) -> "Scda":
        """The source with the digest of its weights; a local path becomes absolute."""
        path = Path(self.weights).expanduser()
        weights = str(path.resolve()) if path.exists() else self.weights
        return replace(self, weights=weights, weights_digest=self._localiser().weights_digest)

    def parameters(self) -> dict[str, object]:
        """What decides the maps, with the digest of the weights in place of their folder."""
        return self._localiser().parameters()

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute maps.

        The network is made in the process that first needs it, on its GPU if it has one. Images
        of one input size go through it together; maps are fetched when all batches have started,
        so that a GPU works while the next batch is put together.

        Raises:
            InputError: weights that are absent, do not fit, have changed, or are not finite.
        """
        maps = [flat_map() for _ in images]
        groups: dict[tuple[int, int], list[int]] = {}
        for number, image in enumerate(images):
            if not is_flat(shrink(image, FLAT_SIDE)):
                height, width = image.shape[:2]
                size = input_size(height, width, self._localiser().side)
                groups.setdefault(size, []).append(number)
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
        return self._localiser().on_view(views01_B3SS, grid)

    def _localiser(self) -> "Localiser":
        # imported here, so that the other sources' processes do without torch
        from pipeline.saliency.scda_network import localiser_of

        return localiser_of(**asdict(self))
