"""The formats of the export by name. A new one: a file beside this one and a line here."""

from collections.abc import Sequence

from pipeline.backbone.formats.hugging_face import HUGGING_FACE
from pipeline.backbone.formats.interface import Format
from pipeline.backbone.formats.onnx_graph import ONNX
from pipeline.backbone.formats.safetensors_file import SAFETENSORS
from pipeline.backbone.formats.timm_layout import TIMM_LAYOUT
from pipeline.core.errors import InputError

FORMATS: dict[str, Format] = {
    "safetensors": SAFETENSORS,
    "timm": TIMM_LAYOUT,
    "hugging_face": HUGGING_FACE,
    "onnx": ONNX,
}
"""Beside the state dict that every export holds."""


def chosen_formats(names: Sequence[str]) -> dict[str, Format]:
    """Look formats up by name, each once.

    Raises:
        InputError: an unknown name; the message lists the known ones.
    """
    for name in names:
        if name not in FORMATS:
            raise InputError(f"unknown format {name!r}: choose from {', '.join(FORMATS)}")
    return {name: FORMATS[name] for name in names}
