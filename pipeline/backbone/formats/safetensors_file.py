"""The state dict as one safetensors file, under the names of the network's own library.

What `backbone.json` says stands in the file's metadata too, so that it cannot lose its
preprocessing.
"""

import dataclasses
import json
from pathlib import Path

from torch import nn

from pipeline.backbone.folder import BackboneInfo
from pipeline.backbone.formats.interface import Format, needed, write_safetensors

FILE = "backbone.safetensors"
INFO_KEY = "backbone.json"
"""Key of the file's metadata."""


def write(folder: Path, network: nn.Module, info: BackboneInfo) -> None:
    """Write the file into the export's folder."""
    metadata = {"format": "pt", INFO_KEY: json.dumps(dataclasses.asdict(info))}
    write_safetensors(folder / FILE, network.state_dict(), metadata)


def check(info: BackboneInfo) -> None:
    """Any network goes; the library has to be there."""
    needed("safetensors.torch", for_what="the format safetensors")


def usage(info: BackboneInfo) -> str:
    """How it is loaded."""
    return f'''from safetensors.torch import load_file

network.load_state_dict(load_file("{FILE}"))  # the network as above'''


SAFETENSORS = Format(entry=FILE, write=write, check=check, usage=usage)
