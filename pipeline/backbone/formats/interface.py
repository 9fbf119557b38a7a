"""What a format of the export is: the files it writes, and how a person loads them."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from pipeline.backbone.folder import BackboneInfo
from pipeline.core.architectures import TIMM
from pipeline.core.errors import InputError

Writer = Callable[[Path, nn.Module, BackboneInfo], None]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to take a backbone away.

    Attributes:
        entry: file or folder that it makes in the export's folder.
        write: writes it there: (folder of the export, plain network in evaluation mode, info).
        check: raises InputError where the backbone has no such layout, before anything is written.
        usage: Python that loads it, as the model card shows it; `info` fills the braces.
    """

    entry: str
    write: Writer
    check: Callable[[BackboneInfo], None]
    usage: Callable[[BackboneInfo], str]


def needed(module: str, *, for_what: str) -> ModuleType:
    """Import a module of the extra `export`.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{for_what} needs {error.name or module}, which is not installed here: install the "
            "extra, salmask[export]"
        ) from error


def write_safetensors(
    file: Path, state_dict: Mapping[str, Tensor], metadata: dict[str, str]
) -> None:
    """Write tensors as safetensors; equal tensors give equal bytes.

    Raises:
        InputError: safetensors is not installed.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    needed("safetensors.torch", for_what=file.name).save_file(tensors, file, metadata=metadata)


def refuse_without_max_pool(info: BackboneInfo, library: str) -> None:
    """Raise InputError for a network whose maximum pooling was left out."""
    if not info.max_pool:
        raise InputError(
            f"this {info.architecture} has no maximum pooling behind its stem, and {library} "
            "builds none without: export it as torchvision, safetensors or onnx"
        )


def library_name(info: BackboneInfo) -> str:
    """The architecture's name in its own library."""
    return info.architecture.removeprefix(TIMM)
