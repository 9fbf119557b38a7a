"""What contrastive methods with own hard negatives share: their settings and their weights.

Shapes: B this rank's batch, N hard negatives per image, D embedding.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pipeline.errors import InputError
from training.data.draws import View, negative_view
from training.distributed import gather_rows, rank, world_size
from training.methods.interface import MethodConfig, Moment
from training.methods.losses import Weigh, prime_log_weights
from training.schedules import linear_warmup


@dataclass(frozen=True, kw_only=True)
class HardNegativeConfig(MethodConfig):
    """Settings of a contrastive loss with the image's own hard negatives.

    Attributes:
        temperature: of the softmax over similarities, above 0.
        hard_negatives: own hard negatives per image, 0 or more: several masks of the same view.
        rho: weight of the similarity to a hard negative, 0 or more.
        rho_warmup_epochs: epochs over which rho rises linearly from 0, 0 or more.
        prime_weights: weigh the hard negatives by the rank of their similarity.
        prime_power: exponent of these weights, 0 or more: 0 makes all alike.
        prime_bias: weight of the easiest one before the exponent, in [0, 1].
    """

    sources: ClassVar[tuple[View, ...]]
    """The views that hard negatives are cut from."""

    temperature: float = 0.2
    hard_negatives: int = 1
    rho: float = 2.0
    rho_warmup_epochs: float = 0.0
    prime_weights: bool = False
    prime_power: float = 0.5
    prime_bias: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.temperature > 0, "temperature", "must be above 0")
        self.check(self.hard_negatives >= 0, "hard_negatives", "must not be negative")
        self.check(self.rho >= 0, "rho", "must not be negative")
        self.check(self.rho_warmup_epochs >= 0, "rho_warmup_epochs", "must not be negative")
        self.check(self.prime_power >= 0, "prime_power", "must not be negative")
        self.check(0 <= self.prime_bias <= 1, "prime_bias", "must be in [0, 1]")

    @property
    def negative_views(self) -> tuple[int, ...]:
        """Numbers of the views that are hard negatives, source by source."""
        return tuple(
            negative_view(source, index)
            for source in self.sources
            for index in range(self.hard_negatives)
        )

    def rho_at(self, moment: Moment) -> float:
        """The weight of the hard negatives at a step."""
        return linear_warmup(
            moment.step,
            value=self.rho,
            warmup_steps=round(self.rho_warmup_epochs * moment.steps_per_epoch),
        )

    def weigh(self) -> Weigh | None:
        """The weights of hard negatives for the loss; None: all alike."""
        return self._prime_weights if self.prime_weights else None

    def _prime_weights(self, similarity_BN: Tensor, scale: float | Tensor) -> Tensor:
        """Ranks over the global batch, so that the number of ranks makes no difference."""
        weights = prime_log_weights(
            gather_rows(similarity_BN.detach()),
            scale=scale,
            power=self.prime_power,
            bias=self.prime_bias,
        )
        return weights.chunk(world_size())[rank()]


def embedding_spread(rows_BD: Tensor) -> Tensor:
    """1 for unit rows all over the sphere, 0 for a collapse to one point; no gradient."""
    spread: Tensor = rows_BD.detach().std(dim=0, correction=0).norm()
    return spread


def one_for_each(rows_RD: Tensor, batch: int) -> Tensor:
    """A rank's hard negatives [B, D]; a single row, [1, D], becomes that of every image."""
    return rows_RD.expand(batch, -1) if len(rows_RD) == 1 else rows_RD


def too_small_for_one(error: ValueError) -> InputError:
    """What to say where batch norm has no statistics for a batch of one image."""
    return InputError(
        "masks.behaviour released encodes the hard negative as a batch of one image, which has no "
        f"batch statistics where the last feature map is a single position ({error}): use larger "
        "views or masks.behaviour paper"
    )
