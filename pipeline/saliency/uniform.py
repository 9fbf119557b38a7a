"""`uniform`: a control that marks nothing: every patch is foreground."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.saliency.interface import Image, Map, flat_map


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """A flat map for every image."""

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute maps; see `SaliencySource`."""
        return [flat_map() for _ in images]
