"""Masks by pycocotools, an optional dependency without types."""

import importlib
from typing import Any

from pipeline.core.errors import InputError


def coco_tools(part: str) -> Any:  # noqa: ANN401
    """The module `mask`, `coco` or `cocoeval`; raises InputError where it is not installed."""
    try:
        return importlib.import_module(f"pycocotools.{part}")
    except ModuleNotFoundError as error:
        raise InputError(
            f"detection needs pycocotools, which is not installed here ({error}): install the "
            "extra, salmask[detection]"
        ) from error


def outline_runs(outline: Any, height: int, width: int) -> dict[str, Any]:  # noqa: ANN401
    """Compressed run lengths of an outline, in an image of that size.

    The outline is a list of polygons `[x, y, x, y, ...]` or `{"size": ..., "counts": ...}`; raises
    InputError for anything else, and for another size.
    """
    tools = coco_tools("mask")
    try:
        if isinstance(outline, list):
            return dict(tools.merge(tools.frPyObjects(outline, height, width)))
        if list(outline["size"]) != [height, width]:
            size = outline["size"]
            raise ValueError(f"its image is {size} (height, width), not {height} x {width}")
        is_plain = isinstance(outline["counts"], list)
        return dict(tools.frPyObjects(outline, height, width) if is_plain else outline)
    except Exception as error:  # pycocotools raises whatever its C code met
        raise InputError(
            f"a mask cannot be read ({error}): wanted COCO's polygons or run lengths, got "
            f"{str(outline)[:80]}"
        ) from error
