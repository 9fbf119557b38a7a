"""The network of `explain`, a small U-Net from an image to one mask, and the folder it lies in.

Shapes: B batch, C channels, S = 112 pixels of the input, P = 56 cells of the mask.
"""

import functools
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backbone.folder import weights_digest
from pipeline.core.errors import InputError, check
from pipeline.core.plain import parse
from pipeline.core.tensors import read_tensors
from pipeline.images.filters import normalise
from pipeline.saliency.interface import check_digest
from pipeline.storage.atomic import write_atomically

INPUT_SIDE = 112
WEIGHTS_FILE, INFO_FILE, FORMAT_VERSION = "explainer.pth", "explainer.json", 1


class MaskNetwork(nn.Module):
    """A U-Net with levels of 56, 28, 14 and 7 cells whose skips are added; norms are per image.

    Its finest level has `width` channels, a multiple of 4, the next twice, the others four times
    as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        widths = (width, 2 * width, 4 * width, 4 * width)
        down = zip((3, *widths[:-1]), widths, strict=True)
        up = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.down = nn.ModuleList(_block(before, after, stride=2) for before, after in down)
        self.up = nn.ModuleList(_block(before, after) for before, after in up)
        self.last = nn.Sequential(_block(width, width), nn.Conv2d(width, 1, 1))

    def forward(self, image01_BCSS: Tensor) -> Tensor:
        """Masks in [0, 1], [B, 1, P, P], of images in [0, 1], squares of any size."""
        x = normalise(resized(image01_BCSS, INPUT_SIDE))
        levels = [x := block(x) for block in self.down]
        for block, skip in zip(self.up, levels[-2::-1], strict=True):
            x = F.interpolate(block(x), scale_factor=2, mode="bilinear") + skip
        mask_B1PP: Tensor = self.last(x).sigmoid()
        return mask_B1PP


def resized(x_BCHW: Tensor, side: int) -> Tensor:
    """Squares of another size, areas averaged."""
    same = x_BCHW.shape[-1] == side
    return x_BCHW if same else F.interpolate(x_BCHW, (side,) * 2, mode="bilinear", antialias=True)


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(4, after), nn.ReLU())


def write_explainer(folder: Path, network: MaskNetwork, about: Mapping[str, Any]) -> None:
    """Write the weights, and then the JSON that names them and holds `about`."""
    weights, digest = io.BytesIO(), weights_digest(network.state_dict())
    torch.save({name: value.cpu() for name, value in network.state_dict().items()}, weights)
    write_atomically(folder / WEIGHTS_FILE, weights.getvalue())
    info = {"format_version": FORMAT_VERSION, "width": network.width, "weights_sha256": digest}
    write_atomically(folder / INFO_FILE, json.dumps({**info, **about}, indent=2).encode())


@functools.lru_cache(maxsize=2)
def load_explainer(weights: str, planned: str) -> tuple[MaskNetwork, str]:
    """The network of a folder, on a GPU where there is one, and the digest of its weights.

    Raises:
        InputError: no finished explainer, a damaged one, or another digest than `planned`.
    """
    folder = Path(weights).expanduser()
    check(
        (folder / INFO_FILE).is_file(),
        f"saliency explain: {folder} holds no finished explainer: wanted the --out of "
        "jobs/explain.py (its command, given again, goes on with one that was broken off)",
    )
    try:
        info = parse((folder / INFO_FILE).read_bytes())
        version, named = info["format_version"], info["weights_sha256"]
        check(version == FORMAT_VERSION, f"format version {version}, wanted {FORMAT_VERSION}")
        network = MaskNetwork(info["width"])
        network.load_state_dict(read_tensors(folder / WEIGHTS_FILE))
        digest = weights_digest(network.state_dict())
        check(named == digest, f"{WEIGHTS_FILE} has another digest than {INFO_FILE} says")
    except Exception as error:  # a damaged file can fail in any way
        reason = " ".join(str(error).split())
        raise InputError(
            f"saliency explain: {folder} cannot be used ({reason}): train it again"
        ) from error
    check_digest(f"explain: the weights {weights}", digest, planned)
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval(), digest


@torch.inference_mode()
def masks_of(network: MaskNetwork, images_BSS3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Masks, float32 [B, P, P], of uint8 images, all at once."""
    device = next(network.parameters()).device
    images = torch.from_numpy(images_BSS3).permute(0, 3, 1, 2).to(device).float() / 255
    masks_B1PP: Tensor = network(images)
    return masks_B1PP[:, 0].cpu().numpy()
