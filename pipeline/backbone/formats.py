"""The formats in which other libraries load an export. A new one: functions and a line here.

- `safetensors`: the state dict under the names of the network's own library; the metadata hold
  `backbone.json`, so that the file cannot lose its preprocessing.
- `timm`: a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)` and transformers.
  timm names and shapes the weights of ResNets, ResNeXts, wide ResNets and DenseNets as torchvision
  does; its other networks differ from torchvision's, and only those that came from timm go back.
- `onnx`: see `onnx_graph`.
"""

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.backbone.info import BackboneInfo
from pipeline.backbone.onnx_graph import write_onnx
from pipeline.core.architectures import TIMM, family, stem_name
from pipeline.core.errors import InputError, check
from pipeline.images.pixel_format import RGB

SAFETENSORS_FILE, ONNX_FILE, TIMM_FOLDER = "backbone.safetensors", "backbone.onnx", "timm"
SAME_IN_TIMM = ("resnet", "densenet")
"""Modules of torchvision whose networks timm has with the same names and functions."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One further format of an export."""

    entry: str
    """Name of its file or folder in the export."""
    needs: tuple[str, ...]
    """Modules of the extra `export` that it needs."""
    write: Callable[[Path, nn.Module, BackboneInfo], None]
    """Writes the entry: (its path, plain network in evaluation mode, info)."""
    usage: str
    """Python that loads it, for the model card; {size} stands for the side of a view."""
    check: Callable[[BackboneInfo], None] = lambda info: None
    """Raises InputError for a backbone that has no such layout."""


def chosen_formats(names: Sequence[str], info: BackboneInfo) -> dict[str, Format]:
    """Look formats up by name.

    Raises:
        InputError: an unknown format (lists the known ones), one that this backbone has no layout
            in, or one whose library is not installed.
    """
    for name in names:
        check(name in FORMATS, f"unknown format {name!r}: choose from {', '.join(FORMATS)}")
        FORMATS[name].check(info)
        for module in FORMATS[name].needs:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                raise InputError(
                    f"the format {name} needs {error.name or module}, which is not installed here: "
                    "install the extra, salmask[export]"
                ) from error
    return {name: FORMATS[name] for name in names}


def _save_tensors(file: Path, state: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    # its own save_file makes files that their owner alone may read, whatever the umask
    file.write_bytes(importlib.import_module("safetensors.torch").save(tensors, metadata))


def _write_safetensors(file: Path, network: nn.Module, info: BackboneInfo) -> None:
    metadata = {"format": "pt", "backbone.json": json.dumps(dataclasses.asdict(info))}
    _save_tensors(file, network.state_dict(), metadata)


def _check_timm(info: BackboneInfo) -> None:
    name = info.architecture
    check(
        name.startswith(TIMM) or family(name) in SAME_IN_TIMM,
        f"torchvision's {name} has no twin in timm: the format timm takes timm's own networks, "
        "and torchvision's ResNets and DenseNets",
    )
    check(
        info.pixels.channels == RGB,
        f"this {name} takes {info.pixels.channels} channels, and the format timm has three: export "
        "it as torchvision, safetensors or onnx",
    )
    check(
        info.max_pool and not info.channels,
        f"this {name} has no maximum pooling behind its stem, or fewer inner channels, and timm "
        "builds none such: export it as torchvision, safetensors or onnx",
    )


def _write_timm(folder: Path, network: nn.Module, info: BackboneInfo) -> None:
    folder.mkdir()
    text = json.dumps(timm_config(network, info), indent=2)
    (folder / "config.json").write_text(text + "\n")
    _save_tensors(folder / "model.safetensors", network.state_dict(), {"format": "pt"})


def timm_config(network: nn.Module, info: BackboneInfo) -> dict[str, Any]:
    """What timm reads; `preprocessing` also has the high-pass filter, which timm does not know."""
    wanted = info.preprocessing
    return {
        "architecture": info.architecture.removeprefix(TIMM),
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


USE_SAFETENSORS = f"""from safetensors.torch import load_file

network.load_state_dict(load_file("{SAFETENSORS_FILE}"))  # the network as above"""
USE_TIMM = f"""import timm

network = timm.create_model("local-dir:{TIMM_FOLDER}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))

# The same by transformers (tried with 5.24), with timm installed:
from transformers import AutoImageProcessor, AutoModel

network = AutoModel.from_pretrained("{TIMM_FOLDER}").eval()
processor = AutoImageProcessor.from_pretrained("{TIMM_FOLDER}")
features = network(**processor(image, return_tensors="pt")).pooler_output"""
USE_ONNX = f'''import onnxruntime

session = onnxruntime.InferenceSession("{ONNX_FILE}")
# uint8 [B, channels, {{size}}, {{size}}], resized and cut as above; normalised and filtered inside
(features,) = session.run(None, {{"views": views}})'''

FORMATS: dict[str, Format] = {
    "safetensors": Format(
        entry=SAFETENSORS_FILE,
        needs=("safetensors.torch",),
        write=_write_safetensors,
        usage=USE_SAFETENSORS,
    ),
    "timm": Format(
        entry=TIMM_FOLDER,
        needs=("safetensors.torch",),
        check=_check_timm,
        write=_write_timm,
        usage=USE_TIMM,
    ),
    "onnx": Format(entry=ONNX_FILE, needs=("onnx", "onnxscript"), write=write_onnx, usage=USE_ONNX),
}
"""Beside the state dict that every export holds."""
