"""The network of `scda` at work, on a GPU or a CPU.

Shapes: B batch, C channels, H W pixels of the input,
h w cells of the last block: H / 32, W / 32 (twice as many without maximum pooling).
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocess
from pipeline.saliency.interface import FLAT_VALUE, Map
from pipeline.saliency.scda_input import MARGIN, STRIDE
from pipeline.saliency.scda_weights import Trunk, load_trunk

FINER = 8
"""Points along a side of a cell at which a map is interpolated, linearly, before it is stored."""
MAX_PIXELS = {"cpu": 1 << 20, "cuda": 1 << 23}
"""Of a batch: 16 images of 224 x 288 on a CPU; features then take less than half a GiB."""
LEAST_DEFAULT_SIDE = 224
MIN_SPREAD = 1e-6
"""A map whose highest value is no more than this above its lowest, relatively, is flat."""


class Localiser:
    """A trunk on its device; batches of one size in, maps out.

    Args:
        trunk: the network.
        side: shorter side of its input in pixels.
        edges: what it sees around an image: `zero` or `reflect`.
        precision: `auto`, `float32` or `bfloat16`.
        device: where it works.
    """

    def __init__(
        self, trunk: Trunk, *, side: int, edges: str, precision: str, device: torch.device
    ) -> None:
        self.trunk, self.side = trunk, side
        self._edges, self._precision, self._device = edges, precision, device
        self._network = trunk.module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._preprocess = Preprocess(trunk.preprocessing).to(device)
        self._bfloat16 = _wants_bfloat16(precision, device)

    def parameters(self) -> dict[str, object]:
        """What decides the maps, in json types."""
        wanted = self.trunk.preprocessing
        high_pass = wanted.high_pass
        return {
            "weights": self.trunk.weights,
            "weights_digest": self.trunk.weights_digest,
            "network": self.trunk.network,
            "max_pool": self.trunk.max_pool,
            "mean": list(wanted.mean),
            "std": list(wanted.std),
            "high_pass": None if high_pass is None else [high_pass.kernel, high_pass.sigma],
            "side": self.side,
            "edges": self._edges,
            "precision": self._precision,
        }

    def max_batch(self, size: tuple[int, int]) -> int:
        """How many images of that height and width go through the network at once."""
        return max(1, MAX_PIXELS[self._device.type] // (size[0] * size[1]))

    @torch.inference_mode()
    def start(self, images_BHW3: NDArray[np.uint8]) -> Tensor:
        """Maps of a batch, without waiting for a GPU to make them.

        Args:
            images_BHW3: RGB, H and W multiples of 32.

        Returns:
            float32 [B, 8 h, 8 w] in [0, 1] on the device, 0.5 where a map has no spread.
        """
        images_BCHW = torch.from_numpy(images_BHW3).permute(0, 3, 1, 2)
        if self._device.type == "cuda":
            images_BCHW = images_BCHW.pin_memory()
        images_BCHW = images_BCHW.to(self._device, non_blocking=True)
        activation_Bhw = self.activation(images_BCHW.float() / 255)
        finer = F.interpolate(
            activation_Bhw[:, None], scale_factor=FINER, mode="bilinear", align_corners=False
        )[:, 0]
        low, high = finer.amin((1, 2), keepdim=True), finer.amax((1, 2), keepdim=True)
        spread = high - low
        # not <=: what is not a number must not pass for flat
        is_flat = (spread < MIN_SPREAD * high) | (high == 0)
        return torch.where(is_flat, FLAT_VALUE, (finer - low) / torch.where(is_flat, 1, spread))

    def activation(self, image01_BCHW: Tensor) -> Tensor:
        """The last block's rectified activation, summed over its channels.

        Args:
            image01_BCHW: float RGB in [0, 1] on the device, H and W multiples of 32.

        Returns:
            float32 [B, h, w], at least 0.
        """
        view_BCHW = self._preprocess.prepare(image01_BCHW)
        margin = MARGIN if self._edges == "reflect" else 0
        if margin:
            view_BCHW = F.pad(view_BCHW, (margin * STRIDE,) * 4, mode="reflect")
        view_BCHW = view_BCHW.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            features_BChw = self._network(view_BCHW)
        activation_Bhw: Tensor = features_BChw.float().relu().sum(dim=1)
        # in cells of the features, which are half as large without maximum pooling
        skip = margin * STRIDE * activation_Bhw.shape[1] // view_BCHW.shape[2]
        height, width = activation_Bhw.shape[1:]
        return activation_Bhw[:, skip : height - skip, skip : width - skip]

    def fetch(self, started_Bhw: Tensor) -> list[Map]:
        """The maps that `start` began.

        Raises:
            InputError: they are not finite.
        """
        maps = started_Bhw.cpu().numpy()
        if not np.isfinite(maps).all():
            raise InputError(
                f"scda: the network with weights {self.trunk.weights} gives activations that "
                "are not finite: try --saliency.precision float32, or other weights"
            )
        return list(maps)


@functools.lru_cache(maxsize=2)
def localiser_of(
    *, weights: str, network: str, side: int, edges: str, precision: str, weights_digest: str
) -> Localiser:
    """The network of a source with these fields, made once in each process that needs it.

    Raises:
        InputError: weights that are not there, do not fit, or are not those it was pinned to.
    """
    trunk = load_trunk(weights, network)
    if weights_digest not in ("", trunk.weights_digest):
        raise InputError(
            f"scda: the weights {weights} have digest {trunk.weights_digest[:12]}, this run was "
            f"planned with {weights_digest[:12]}: they have changed, or are others on this "
            "machine; give all machines the same ones and run this again"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side = side or default_side(trunk)
    return Localiser(trunk, side=side, edges=edges, precision=precision, device=device)


def default_side(trunk: Trunk) -> int:
    """The paper's 224, or more for a network that was made for more; a multiple of the stride.

    Also for encoders that were trained on smaller views: those of 32 and 64 pixels find most
    between 160 and 224, and little at the size of their views.
    """
    return max(LEAST_DEFAULT_SIDE, round(trunk.preprocessing.view_size / STRIDE) * STRIDE)


def _wants_bfloat16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)  # there is no public question
    return bool(has_amx and has_amx())
