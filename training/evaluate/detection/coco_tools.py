"""pycocotools, which knows COCO's masks and measures: an extra, asked for where it is needed."""

import importlib
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError


@lru_cache
def coco_tools(part: str) -> ModuleType:
    """A module of pycocotools: `mask`, `coco` or `cocoeval`.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(f"pycocotools.{part}")
    except ModuleNotFoundError as error:
        raise InputError(
            f"detection needs pycocotools, which is not installed here ({error}): install the "
            "extra, salmask[detection]"
        ) from error


def outline_runs(outline: Any, height: int, width: int) -> dict[str, Any]:  # noqa: ANN401
    """COCO's polygons, or run lengths of either kind, as compressed run lengths.

    Args:
        outline: a list of polygons `[x, y, x, y, ...]` or `{"size": ..., "counts": ...}`.
        height: of the image.
        width: of the image.

    Raises:
        InputError: neither, or of another size.
    """
    tools = coco_tools("mask")
    try:
        if isinstance(outline, list):
            merged: dict[str, Any] = tools.merge(tools.frPyObjects(outline, height, width))
            return merged
        if list(outline["size"]) != [height, width]:
            raise InputError(
                f"a mask of {outline['size']} (height, width) belongs to an image of "
                f"{height} x {width}: wanted the image's own size"
            )
        counts = outline["counts"]
        runs = tools.frPyObjects(outline, height, width) if isinstance(counts, list) else outline
        return dict(runs)
    except InputError:
        raise
    except Exception as error:  # pycocotools raises whatever its C code met
        raise InputError(
            f"a mask cannot be read ({error}): wanted COCO's polygons or run lengths, got "
            f"{str(outline)[:80]}"
        ) from error


def outline_mask(outline: Any, height: int, width: int) -> NDArray[np.uint8]:  # noqa: ANN401
    """The same as pixels, uint8 [height, width], 1 inside."""
    pixels = coco_tools("mask").decode(outline_runs(outline, height, width))
    return np.asarray(pixels, dtype=np.uint8)


def mask_runs(inside_HW: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask as compressed run lengths."""
    runs: dict[str, Any] = coco_tools("mask").encode(np.asfortranarray(inside_HW.astype(np.uint8)))
    return runs
