"""The interface of maskers: they draw numbers in the loader and mask pixels on the device.

Shapes: `B` batch, `C` channels (1, or 3 where channels may be masked apart), `G` grid side, `H W`
pixels.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from training.views.fills import VIEW_NOISE_STD
from training.views.settings import ViewConfig


class MaskerInputs(NamedTuple):
    """What a masker knows of a batch of views.

    Attributes:
        foreground_BGG: bool; with `steered_by_next` that of the next image in the global batch.
        saliency_BGG: float in [0, 1].
        view_size: side of the views in pixels.
        next_foreground_BGG: bool, of the next image in the global batch, where it lends its
            background.
    """

    foreground_BGG: Tensor
    saliency_BGG: Tensor
    view_size: int
    next_foreground_BGG: Tensor | None


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
    def mask(self, draws: Any, inputs: MaskerInputs) -> Tensor:  # noqa: ANN401  (of `draw`)
        """The masked pixels: bool, `[B, C, H, W]`.

        Args:
            draws: of `draw`, on the device.
            inputs: on the device.
        """
