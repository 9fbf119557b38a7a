"""Maskers: what is masked in a view, drawn in the loader and applied on the device.

Shapes: `B` batch, `C` channels (1, or 3 where channels may be masked apart), `G` grid side, `H W`
pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from training.randomness.draws import view_number
from training.views.fills import NEGATIVE_NOISE_STD, VIEW_NOISE_STD
from training.views.mask_draws import (
    NEGATIVE_BOX_SIDE_AT_224,
    QUERY_BOX_SIDE_AT_224,
    MaskDraws,
    draw_masks,
    scaled_side,
)
from training.views.masks import hard_negative_mask, view_mask
from training.views.settings import MaskConfig, ViewConfig


class Sight(NamedTuple):
    """What a masker knows of a batch of views."""

    foreground_BGG: Tensor
    """bool; with `steered_by_next` that of the next image in the global batch."""
    saliency_BGG: Tensor
    """float in [0, 1]."""
    view_size: int
    """Side of the views in pixels."""
    next_foreground_BGG: Tensor | None
    """bool, of the next image in the global batch, where it lends its background."""


class Masker(ABC):
    """Chooses the masked pixels of a view."""

    masks: bool = True
    """False: it never masks anything."""
    steered_by_next: bool = False
    """Whether the next image's saliency steers it."""
    noise_std: ClassVar[float] = VIEW_NOISE_STD
    """Standard deviation of the noise in masked pixels, where the fill is noise."""

    @abstractmethod
    def draw(self, seeds_B: NDArray[np.uint64], *, view: str, cut: ViewConfig) -> Any:  # noqa: ANN401
        """Draw the numbers that decide the masks.

        Args:
            seeds_B: the samples' seeds (`draws.sample_seeds`).
            view: name of the view.
            cut: size and grid of its crop.

        Returns:
            A named tuple of CPU tensors whose first dimension is B.
        """

    @abstractmethod
    def mask(self, draws: Any, sight: Sight) -> Tensor:  # noqa: ANN401  (of `draw`)
        """The masked pixels: bool, `[B, C, H, W]`.

        Args:
            draws: of `draw`, on the device.
            sight: likewise.
        """


@dataclass(frozen=True)
class PatchMasker(Masker):
    """Masks patches of the grid, with the shapes of the high-pass fill if it is used.

    Attributes:
        config: how views are masked.
        high_pass: whether masks have the three shapes of the high-pass fill.
    """

    config: MaskConfig
    high_pass: bool
    box_side_at_224: ClassVar[int]
    """Side of the focal mask's box in pixels, of a view of 224 px."""

    @property
    def steered_by_next(self) -> bool:  # type: ignore[override]
        """With strategy `shuffled`, a control, another image's saliency steers all masks."""
        return self.config.strategy == "shuffled"

    @property
    @abstractmethod
    def ratio(self) -> tuple[float, float]:
        """Least and greatest masking ratio."""

    def draw(self, seeds_B: NDArray[np.uint64], *, view: str, cut: ViewConfig) -> MaskDraws:
        """Draw what decides the patches."""
        return draw_masks(
            seeds_B,
            view=view_number(view),
            ratio=self.ratio,
            grid=cut.grid,
            view_size=cut.size,
            box_side=scaled_side(self.box_side_at_224, cut.size),
        )


@dataclass(frozen=True)
class StrategyMasker(PatchMasker):
    """The masks of queries and keys: a strategy by its name (`strategies.MASK_STRATEGIES`)."""

    box_side_at_224: ClassVar[int] = QUERY_BOX_SIDE_AT_224

    @property
    def masks(self) -> bool:  # type: ignore[override]
        """Whether the strategy masks anything."""
        return self.config.strategy != "none"

    @property
    def ratio(self) -> tuple[float, float]:
        """Of a masked query or key."""
        return self.config.ratio

    def mask(self, draws: Any, sight: Sight) -> Tensor:  # noqa: ANN401
        """The masked pixels: bool, `[B, C, H, W]`."""
        config = self.config
        mask_BCHW = view_mask(
            sight.foreground_BGG,
            sight.saliency_BGG,
            draws,
            strategy=config.strategy,
            view_size=sight.view_size,
            high_pass=self.high_pass,
            probability=config.masked_share,
            show=config.attmask.show,
            released=config.released,
            matched=config.count == "matched",
        )
        swaps = config.strategy == "exchange" and config.exchange == "swap"
        if sight.next_foreground_BGG is not None and swaps:
            mask_BCHW &= has_background(sight.next_foreground_BGG)[:, None, None, None]
        return mask_BCHW


@dataclass(frozen=True)
class HideObject(PatchMasker):
    """The masks of hard negatives: patches of the object."""

    noise_std: ClassVar[float] = NEGATIVE_NOISE_STD
    box_side_at_224: ClassVar[int] = NEGATIVE_BOX_SIDE_AT_224

    @property
    def ratio(self) -> tuple[float, float]:
        """Of the foreground."""
        return self.config.negative_ratio

    def mask(self, draws: Any, sight: Sight) -> Tensor:  # noqa: ANN401
        """The masked pixels: bool, `[B, C, H, W]`."""
        return hard_negative_mask(
            sight.foreground_BGG,
            draws,
            view_size=sight.view_size,
            high_pass=self.high_pass,
            patches=self.config.negative_patches,
            released=self.config.released,
            matched=self.config.count == "matched",
        )


def has_background(foreground_BGG: Tensor) -> Tensor:
    """Which views have background patches: bool, `[B]`."""
    return ~foreground_BGG.flatten(1).all(dim=1)


MASKERS: dict[str, Callable[[MaskConfig, bool], Masker]] = {}
"""Maskers of strategies that choose pixels in a way of their own, by name."""


def masker_named(config: MaskConfig, *, high_pass: bool) -> Masker:
    """The masker of a strategy.

    Args:
        config: names the strategy.
        high_pass: whether masks have the shapes of the high-pass fill.
    """
    return MASKERS.get(config.strategy, StrategyMasker)(config, high_pass)
