"""A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads.

timm names and shapes the weights of ResNets, ResNeXts, wide ResNets and DenseNets as torchvision
does; its other networks differ from torchvision's, and only those that came from timm go back.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.backbone.folder import BackboneInfo
from pipeline.backbone.formats.interface import (
    Format,
    library_name,
    needed,
    refuse_without_max_pool,
    write_safetensors,
)
from pipeline.core.architectures import TIMM, family, stem_name
from pipeline.core.errors import InputError

FOLDER = "timm"
SAME_NAMES = ("resnet", "densenet")
"""Modules of torchvision whose networks timm has with the same names and functions."""


def write(folder: Path, network: nn.Module, info: BackboneInfo) -> None:
    """Write `config.json` and `model.safetensors` below the export's folder."""
    target = folder / FOLDER
    target.mkdir()
    text = json.dumps(config(network, info), indent=2)
    (target / "config.json").write_text(text + "\n")
    write_safetensors(target / "model.safetensors", network.state_dict(), {"format": "pt"})


def config(network: nn.Module, info: BackboneInfo) -> dict[str, Any]:
    """What timm reads; the high-pass filter, which it does not know, stands apart."""
    wanted = info.preprocessing
    return {
        "architecture": library_name(info),
        "num_classes": 0,
        "num_features": info.feature_dim,
        "pretrained_cfg": {
            "input_size": [3, wanted.view_size, wanted.view_size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            # timm resizes to floor(size / crop_pct): a hair less than the quotient, so that
            # rounding cannot make it a pixel shorter.
            "crop_pct": wanted.view_size / (wanted.resize + 0.01),
            "crop_mode": "center",
            "mean": list(wanted.mean),
            "std": list(wanted.std),
            "num_classes": 0,
            "first_conv": stem_name(network),
        },
        "preprocessing": dataclasses.asdict(wanted),
    }


def check(info: BackboneInfo) -> None:
    """Raise InputError for a network that timm does not have under the same names."""
    name = info.architecture
    if not name.startswith(TIMM) and family(name) not in SAME_NAMES:
        raise InputError(
            f"torchvision's {name} has no twin in timm: the format timm takes timm's own networks, "
            "and torchvision's ResNets and DenseNets"
        )
    refuse_without_max_pool(info, "timm")
    needed("safetensors.torch", for_what="the format timm")


def usage(info: BackboneInfo) -> str:
    """How it is loaded."""
    return f"""import timm

network = timm.create_model("local-dir:{FOLDER}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))"""


TIMM_LAYOUT = Format(entry=FOLDER, write=write, check=check, usage=usage)
