"""The network of learned masks, and its file: training writes it, the source `learned` reads it.

A folder has `generator.pth`, a state dict, and `generator.json`: how the network is built, how its
images are prepared, and where it comes from.

Shapes: B batch, H W pixels, P side of a patch in pixels, h w cells of H / P, W / P, K maps.
"""

import io
import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbone.folder import weights_digest
from pipeline.core.errors import InputError, check
from pipeline.images.filters import IMAGENET_MEAN, IMAGENET_STD
from pipeline.storage.atomic import write_atomically

FOLDER, WEIGHTS_NAME, INFO_NAME = "generator", "generator.pth", "generator.json"
FORMAT_VERSION = 1
CHANNELS_PER_GROUP = 8


@dataclass(frozen=True, kw_only=True)
class GeneratorInfo:
    """What `generator.json` says."""

    patch: int
    """Side of a patch of the training's views, in pixels."""
    view_size: int
    """Side of these views, in pixels."""
    num_maps: int = 1
    width: int = 64
    sees_hidden: bool = False
    """Whether a fourth channel says what is hidden already."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    """Of an RGB image in [0, 1]: how views are normalised."""
    weights_sha256: str = ""
    provenance: dict[str, Any] | None = None
    format_version: int = FORMAT_VERSION


class MaskGenerator(nn.Module):
    """Strided convolutions with group norm, from an image to one logit per patch and map.

    50 to 200 thousand parameters at patches of 4 to 32 pixels and the default width. Nothing is
    shared between the images of a batch. A new network gives 0 everywhere.
    """

    def __init__(self, info: GeneratorInfo) -> None:
        super().__init__()
        self.info = info
        halvings, width = info.patch.bit_length() - 1, info.width
        channels = [3 + info.sees_hidden, width // 4, width // 2, *[width] * halvings]
        layers: list[nn.Module] = []
        for inner, outer in pairwise(channels[: halvings + 1]):
            layers += _convolution(inner, outer, stride=2)
        self.down = nn.Sequential(*layers)
        self.context = nn.Sequential(
            *_convolution(channels[halvings], width), *_convolution(width, width)
        )
        self.out = nn.Conv2d(width, info.num_maps, kernel_size=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, view_BCHW: Tensor, hidden_BNN: Tensor | None = None) -> Tensor:
        """Logits, float32 [B, K, h, w], of prepared views whose sides are multiples of P.

        `hidden_BNN`, [B, h, w], is 1 for patches that are hidden already, for a network that sees
        them; None: none is.
        """
        batch, _, height, width = view_BCHW.shape
        grid = height // self.info.patch, width // self.info.patch
        if self.info.sees_hidden:
            if hidden_BNN is None:
                hidden_BNN = view_BCHW.new_zeros(batch, *grid)
            hidden = functional.interpolate(hidden_BNN[:, None], (height, width))
            view_BCHW = torch.cat((view_BCHW, hidden.to(view_BCHW.dtype)), dim=1)
        features = functional.adaptive_avg_pool2d(self.down(view_BCHW), grid)
        logits: Tensor = self.out(self.context(features))
        return logits


def _convolution(inner: int, outer: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inner, outer, kernel_size=3, stride=stride, padding=1, bias=False)
    return [convolution, nn.GroupNorm(outer // CHANNELS_PER_GROUP, outer), nn.ReLU()]


def write_generator(folder: Path, generator: MaskGenerator, provenance: dict[str, Any]) -> None:
    """Write weights and JSON into a folder, each whole; the JSON has the weights' digest.

    The provenance holds JSON values.
    """
    state, weights = generator.state_dict(), io.BytesIO()
    torch.save({name: value.detach().cpu() for name, value in state.items()}, weights)
    found = {"weights_sha256": weights_digest(state), "provenance": provenance}
    write_atomically(folder / WEIGHTS_NAME, weights.getvalue())
    said = json.dumps(asdict(generator.info) | found, indent=2)
    write_atomically(folder / INFO_NAME, said.encode() + b"\n")


def find_generator(path: Path) -> Path:
    """The folder of a generator: of its file, the folder itself, or that of a run or checkpoint.

    Raises:
        InputError: there is none.
    """
    for folder in (path.parent if path.is_file() else path, path / FOLDER):
        if (folder / INFO_NAME).is_file() and (folder / WEIGHTS_NAME).is_file():
            return folder
    raise InputError(
        f"there is no mask generator at {path}: wanted a {WEIGHTS_NAME} with its {INFO_NAME}, or "
        "a run or checkpoint of --masks.strategy learned"
    )


def load_generator(path: Path) -> MaskGenerator:
    """A generator in evaluation mode on the CPU; its `info` is what the JSON says.

    Raises:
        InputError: as `find_generator`; files that are damaged or do not belong together.
    """
    folder = find_generator(path)
    try:
        said = json.loads((folder / INFO_NAME).read_text())
        pairs = {name: tuple(map(float, said[name])) for name in ("mean", "std")}
        info = GeneratorInfo(**said | pairs)
        check(info.format_version == FORMAT_VERSION, f"format version {info.format_version}")
        generator = MaskGenerator(info)
        generator.load_state_dict(torch.load(folder / WEIGHTS_NAME, weights_only=True))
    except Exception as error:  # a damaged or foreign file can fail in any way
        raise InputError(f"the mask generator in {folder} cannot be read: {error}") from error
    found = weights_digest(generator.state_dict())
    check(
        found == info.weights_sha256,
        f"{folder / WEIGHTS_NAME} has digest {found[:12]}, {INFO_NAME} says "
        f"{info.weights_sha256[:12]}: damaged, or of another run",
    )
    return generator.eval().requires_grad_(False)
