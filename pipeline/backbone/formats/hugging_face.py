"""A folder that `transformers.ResNetModel.from_pretrained` loads.

Its `pooler_output` is [B, D, 1, 1]. transformers has the plain ResNets, 18 to 152 layers; the names
of the weights are translated.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.backbone.folder import BackboneInfo
from pipeline.backbone.formats.interface import (
    Format,
    needed,
    refuse_without_max_pool,
    write_safetensors,
)
from pipeline.core.errors import InputError

FOLDER = "hugging_face"
DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
BASIC = ("resnet18", "resnet34")
"""Networks of basic blocks; the others have bottlenecks."""
PIL_BILINEAR = 2


def write(folder: Path, network: nn.Module, info: BackboneInfo) -> None:
    """Write `config.json`, `preprocessor_config.json` and `model.safetensors`."""
    target = folder / FOLDER
    target.mkdir()
    for name, content in (
        ("config.json", config(info)),
        ("preprocessor_config.json", preprocessor(info)),
    ):
        (target / name).write_text(json.dumps(content, indent=2) + "\n")
    state = {translated(name): value for name, value in network.state_dict().items()}
    write_safetensors(target / "model.safetensors", state, {"format": "pt"})


def translated(name: str) -> str:
    """Torchvision's name of a ResNet's tensor as transformers has it."""
    *module, part = name.split(".")
    kind = {"conv": "convolution", "bn": "normalization"}
    if len(module) == 1:  # conv1, bn1
        return f"embedder.embedder.{kind[module[0].rstrip('1')]}.{part}"
    stage, block, inner = module[0], module[1], module[2:]
    if inner[0] == "downsample":
        where = f"shortcut.{('convolution', 'normalization')[int(inner[1])]}"
    else:
        found = re.fullmatch(r"(conv|bn)(\d)", inner[0])
        assert found is not None, name
        where = f"layer.{int(found[2]) - 1}.{kind[found[1]]}"
    number = int(stage.removeprefix("layer")) - 1
    return f"encoder.stages.{number}.layers.{block}.{where}.{part}"


def config(info: BackboneInfo) -> dict[str, Any]:
    """The network, as transformers describes it."""
    width = info.feature_dim // 8
    return {
        "model_type": "resnet",
        "architectures": ["ResNetModel"],
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_sizes": [width * factor for factor in (1, 2, 4, 8)],
        "depths": list(DEPTHS[info.architecture]),
        "layer_type": "basic" if info.architecture in BASIC else "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def preprocessor(info: BackboneInfo) -> dict[str, Any]:
    """The preparation; the high-pass filter, which transformers does not know, stands apart."""
    wanted = info.preprocessing
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": wanted.resize},
        "resample": PIL_BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": wanted.view_size, "width": wanted.view_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(wanted.mean),
        "image_std": list(wanted.std),
        "preprocessing": dataclasses.asdict(wanted),
    }


def check(info: BackboneInfo) -> None:
    """Raise InputError for a network that transformers does not have."""
    if info.architecture not in DEPTHS:
        raise InputError(
            f"transformers has no {info.architecture}: the format hugging_face takes "
            f"{', '.join(DEPTHS)}"
        )
    refuse_without_max_pool(info, "transformers")
    needed("safetensors.torch", for_what="the format hugging_face")


def usage(info: BackboneInfo) -> str:
    """How it is loaded."""
    return f'''from transformers import AutoImageProcessor, ResNetModel

network = ResNetModel.from_pretrained("{FOLDER}").eval()
processor = AutoImageProcessor.from_pretrained("{FOLDER}")
features = network(**processor(image, return_tensors="pt")).pooler_output.flatten(1)'''


HUGGING_FACE = Format(entry=FOLDER, write=write, check=check, usage=usage)
