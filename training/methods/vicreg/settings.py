"""Settings of VICReg."""

from dataclasses import dataclass
from typing import ClassVar

from training.methods.settings import MethodConfig


@dataclass(frozen=True, kw_only=True)
class VICRegConfig(MethodConfig):
    """The method's settings; the weights of the three terms are the paper's.

    Attributes:
        invariance: weight of the squared distance of the two views' embeddings, 0 or more.
        variance: weight of the hinge that keeps each dimension's standard deviation at 1, 0 or
            more.
        covariance: weight of the squared covariances of different dimensions, 0 or more.
    """

    name: ClassVar[str] = "vicreg"

    embedding_dim: int = 2048
    head_layers: int = 3
    head_width: int | None = 2048
    head_batch_norm: bool = True
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("invariance", "variance", "covariance"):
            self.check(getattr(self, name) >= 0, name, "must not be negative")
