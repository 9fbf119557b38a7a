"""Settings of BYOL."""

from dataclasses import dataclass
from typing import ClassVar

from training.methods.settings import MethodConfig


@dataclass(frozen=True, kw_only=True)
class BYOLConfig(MethodConfig):
    """The method's settings; the defaults are those of its paper for a short run.

    Attributes:
        predictor_width: width of the predictor's inner layer, 1 or more.
        target_momentum: share of the target encoder kept at the first step, in [0, 1); it rises to
            1 along half a cosine.
        symmetric: predict each view from the other, and not only view 2 from view 1. With a masked
            view 1 the second half then has masked targets.
    """

    name: ClassVar[str] = "byol"

    embedding_dim: int = 256
    head_width: int | None = 4096
    head_batch_norm: bool = True
    predictor_width: int = 4096
    target_momentum: float = 0.99
    symmetric: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.predictor_width >= 1, "predictor_width", "must be 1 or more")
        self.check(0 <= self.target_momentum < 1, "target_momentum", "must be in [0, 1)")
