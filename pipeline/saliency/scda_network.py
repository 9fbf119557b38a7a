"""The network of `scda` at work, on a GPU or a CPU.

Shapes: B batch, C channels, H W pixels of the input,
h w cells of the last block: H / 32, W / 32 (twice as many without maximum pooling).
"""

import functools
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backbone.folder import weights_digest as digest_of
from pipeline.backbone.weights import Weights, find_weights, load_weights
from pipeline.core.architectures import NoInitialWeights, family, max_pool_name
from pipeline.core.errors import InputError
from pipeline.core.vision import torchvision
from pipeline.images.preprocessing import Preprocess, Preprocessing, short_side
from pipeline.saliency.interface import FLAT_VALUE, Map, check_digest

FINER = 8
"""Points along a side of a cell at which a map is interpolated, linearly, before it is stored."""
MAX_PIXELS = {"cpu": 1 << 20, "cuda": 1 << 23}
"""Of a batch: 16 images of 224 x 288 on a CPU; features then take less than half a GiB."""
MIN_SPREAD = 1e-6
"""A map whose highest value is no more than this above its lowest, relatively, is flat."""
LAST_BLOCK: dict[str, tuple[str, ...]] = {
    "resnet": ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    "convnext": ("features",),
    "densenet": ("features",),
    "efficientnet": ("features",),
    "mnasnet": ("layers",),
    "mobilenetv2": ("features",),
    "mobilenetv3": ("features",),
    "regnet": ("stem", "trunk_output"),
    "shufflenetv2": ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),
    "vgg": ("features",),
}
"""By torchvision's module: the children that lead to the last block's feature map, in order."""
DEFAULT_NETWORK = "resnet50"
RANDOM_SEED = 0
VIEWS_AT_ONCE = 16
PLAIN = Preprocessing(view_size=224, resize=short_side(224))


class Localiser:
    """A network up to its last convolutional block; batches of one size in, maps out.

    Args:
        weights: see `Scda`.
        network: see `Scda`.
        planned_digest: sha256 that the weights must have; empty: any.
        margin: pixels by which an image is reflected around itself; 0: the network sees zeros.
        precision: see `Scda`.

    Raises:
        InputError: a network without known feature map; weights that are absent, cannot be
            fetched, do not fit, are not finite or have another digest.
    """

    def __init__(
        self, weights: str, network: str, planned_digest: str, margin: int, precision: str
    ) -> None:
        path = Path(weights).expanduser()
        if not path.is_dir():
            network = network or DEFAULT_NETWORK
            refuse_unknown_network(network)
        found = Weights({}) if weights == "random" else find_weights(weights, network)
        self.max_pool = found.export is None or found.export.max_pool
        if found.export is not None:
            network = found.export.architecture
            refuse_unknown_network(network)
        self.weights, self.network = path.name, network
        module = _convolutions(network, self.max_pool, found.state, weights)
        self.weights_digest = digest_of(module.state_dict())
        check_digest(f"scda: the weights {weights}", self.weights_digest, planned_digest)
        self.preprocessing = found.preprocessing or PLAIN
        self._margin = margin
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module = module.to(device=self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._preprocess = Preprocess(self.preprocessing).to(self._device)
        self._bfloat16 = _wants_bfloat16(precision, self._device)

    def parameters(self) -> dict[str, object]:
        """The network, its weights and its preprocessing, in JSON types."""
        high_pass = self.preprocessing.high_pass
        return {
            "weights": self.weights,
            "weights_digest": self.weights_digest,
            "network": self.network,
            "max_pool": self.max_pool,
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
            "high_pass": None if high_pass is None else [high_pass.kernel, high_pass.sigma],
        }

    def max_batch(self, size: tuple[int, int]) -> int:
        """How many images of that height and width go through the network at once."""
        return max(1, MAX_PIXELS[self._device.type] // (size[0] * size[1]))

    @torch.inference_mode()
    def start(self, images_BHW3: NDArray[np.uint8]) -> Tensor:
        """Start to compute the maps of RGB images, H and W multiples of 32; a GPU is not awaited.

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
        # Not <=: NaN must not pass for flat.
        is_flat = (spread < MIN_SPREAD * high) | (high == 0)
        return torch.where(is_flat, FLAT_VALUE, (finer - low) / torch.where(is_flat, 1, spread))

    def activation(self, image01_BCHW: Tensor) -> Tensor:
        """Sum the last block's rectified activations over channels: float32 [B, h, w]."""
        view_BCHW = self._preprocess.prepare(image01_BCHW)
        if self._margin:
            view_BCHW = F.pad(view_BCHW, (self._margin,) * 4, mode="reflect")
        view_BCHW = view_BCHW.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            features_BChw = self.module(view_BCHW)
        activation_Bhw: Tensor = features_BChw.float().relu().sum(dim=1)
        # In cells of the features, which are half as large without maximum pooling.
        skip = self._margin * activation_Bhw.shape[1] // view_BCHW.shape[2]
        height, width = activation_Bhw.shape[1:]
        return activation_Bhw[:, skip : height - skip, skip : width - skip]

    def fetch(self, started_Bhw: Tensor) -> list[Map]:
        """The maps that `start` began; InputError if they are not finite."""
        maps = started_Bhw.cpu().numpy()
        if not np.isfinite(maps).all():
            raise InputError(
                f"scda: the network with weights {self.weights} gives activations that "
                "are not finite: try --saliency scda:precision=float32, or other weights"
            )
        return list(maps)

    @torch.inference_mode()
    def on_view(self, views01_B3SS: Tensor, side: int) -> NDArray[np.float32]:
        """The activation of each cell of views that are resized to `side` pixels."""
        enlarged = (
            F.interpolate(part.to(self._device), (side,) * 2, mode="bilinear", align_corners=False)
            for part in views01_B3SS.split(VIEWS_AT_ONCE)
        )
        return torch.cat([self.activation(part) for part in enlarged]).cpu().numpy()


localiser_of = functools.lru_cache(maxsize=2)(Localiser)
"""Makes a `Localiser` once in each process that needs it."""


def _convolutions(
    network: str, max_pool: bool, state: Mapping[str, Tensor], source: str
) -> nn.Module:
    """Build float [B, 3, H, W] -> features [B, C, h, w] with these weights, or random ones."""
    if state:
        with NoInitialWeights():
            whole = torchvision.models.get_model(network, weights=None)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            whole = torchvision.models.get_model(network, weights=None)
    if not max_pool:
        whole.set_submodule(max_pool_name(whole, network), nn.Identity())
    children = LAST_BLOCK[family(network)]
    module = nn.Sequential(OrderedDict((name, whole.get_submodule(name)) for name in children))
    if state:
        others = tuple(name for name, _ in whole.named_children() if name not in children)
        load_weights(module, state, architecture=network, source=source, leave_out=others)
    for name, value in module.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(
                f"scda: {name!r} of the weights {source} holds values that are not finite: "
                "the training that made them has diverged"
            )
    return module.eval().requires_grad_(False)


def refuse_unknown_network(network: str) -> None:
    """Raise InputError for a network whose last convolutional block is not known."""
    if network not in torchvision.models.list_models(module=torchvision.models):
        raise InputError(f"scda: torchvision has no network {network!r}: resnet50 is one")
    if family(network) not in LAST_BLOCK:
        raise InputError(
            f"scda: {network} has no last convolutional feature map that this program knows: "
            f"wanted a network of torchvision's {', '.join(LAST_BLOCK)}"
        )


def _wants_bfloat16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)  # there is no public function
    return bool(has_amx and has_amx())
