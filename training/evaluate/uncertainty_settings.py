"""The settings of the protocol `uncertainty`. They import no torch."""

from dataclasses import dataclass

from pipeline.core.errors import check
from training.config.settings import check_least


@dataclass(frozen=True, kw_only=True)
class UncertaintyConfig:
    """How sure a checkpoint is of its answers.

    Attributes:
        views: masked views of an image that are compared, 1 or more.
        certain: share of the images, the most certain ones, whose accuracy is given, in (0, 1].
    """

    views: int = 16
    certain: float = 0.5

    def __post_init__(self) -> None:
        check_least(self, "uncertainty.", views=1)
        fits = 0 < self.certain <= 1
        check(fits, f"uncertainty.certain {self.certain} must be in (0, 1]")
