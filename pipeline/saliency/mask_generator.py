"""The network of learned masks, and its file: training writes it, the source `learned` reads it.

Shapes: B batch, H W pixels, P side of a patch in pixels, h w cells of H / P, W / P, K maps.
"""

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.architectures import first_line
from pipeline.core.errors import InputError
from pipeline.core.tensors import read_tensors
from pipeline.images.pixel_format import IMAGENET_MEAN, IMAGENET_STD
from pipeline.storage.atomic import write_atomically

GENERATOR_FILE = "generator.pth"
CHANNELS_PER_GROUP = 8


class MaskGenerator(nn.Module):
    """Strided convolutions with group norm: 50 to 200 thousand parameters at patches of 4 to 32 px.

    Nothing is shared between the images of a batch. A new network gives 0 everywhere.

    Args:
        view_size: side of the training's views in pixels.
        patch: side P of a patch of these in pixels.
        num_maps: K.
        width: channels of the inner layers.
        sees_hidden: whether a fourth channel says what is hidden already.
    """

    def __init__(
        self, *, view_size: int, patch: int, num_maps: int = 1, width: int = 64, sees_hidden: bool
    ) -> None:
        super().__init__()
        self.view_size, self.patch, self.sees_hidden = view_size, patch, sees_hidden
        self.num_maps, self.width, self.provenance = num_maps, width, dict[str, Any]()
        halvings = patch.bit_length() - 1
        channels = [3 + sees_hidden, width // 4, width // 2, *[width] * halvings]
        halved = [_convolution(*pair, stride=2) for pair in pairwise(channels[: halvings + 1])]
        self.down = nn.Sequential(*halved)
        self.context = nn.Sequential(
            _convolution(channels[halvings], width), _convolution(width, width)
        )
        self.out = nn.Conv2d(width, num_maps, kernel_size=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, view_BCHW: Tensor, hidden_Bhw: Tensor | None = None) -> Tensor:
        """Logits [B, K, h, w] of prepared views whose sides are multiples of P.

        `hidden_Bhw` is 1 for patches that are hidden already, for a network that sees them.
        """
        height, width = view_BCHW.shape[2:]
        grid = height // self.patch, width // self.patch
        if self.sees_hidden:
            if hidden_Bhw is None:
                hidden_Bhw = view_BCHW.new_zeros(len(view_BCHW), *grid)
            hidden = functional.interpolate(hidden_Bhw[:, None], (height, width))
            view_BCHW = torch.cat((view_BCHW, hidden), dim=1)
        features = functional.adaptive_avg_pool2d(self.down(view_BCHW), grid)
        logits: Tensor = self.out(self.context(features))
        return logits


def _convolution(inner: int, outer: int, *, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inner, outer, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(outer // CHANNELS_PER_GROUP, outer), nn.ReLU())


def write_generator(folder: Path, generator: MaskGenerator, provenance: dict[str, Any]) -> None:
    """Write `generator.pth`, whole or not at all: weights, network, how its images are prepared.

    The provenance holds JSON values.
    """
    names = ("view_size", "patch", "num_maps", "width", "sees_hidden")
    content = {
        "network": {name: getattr(generator, name) for name in names},
        "weights": {name: value.detach().cpu() for name, value in generator.state_dict().items()},
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "provenance": provenance,
    }
    file = io.BytesIO()
    torch.save(content, file)
    write_atomically(folder / GENERATOR_FILE, file.getvalue())


def load_generator(path: Path) -> MaskGenerator:
    """The generator of a file, or of the folder of a run or checkpoint, in evaluation mode.

    Raises:
        InputError: there is none, or the file is damaged or of another kind.
    """
    file = path / GENERATOR_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"there is no mask generator at {file}: wanted a run or checkpoint of --masks.strategy "
            f"learned, or its {GENERATOR_FILE}"
        )
    try:
        found = read_tensors(file)
        if "network" not in found:
            raise ValueError("it is of another kind")
        generator = MaskGenerator(**found["network"])
        generator.load_state_dict(found["weights"])
        generator.provenance = found["provenance"]
    except Exception as error:  # a damaged or foreign file can fail in any way
        raise InputError(
            f"the mask generator {file} cannot be read: {first_line(error)}"
        ) from error
    return generator.eval().requires_grad_(False)
