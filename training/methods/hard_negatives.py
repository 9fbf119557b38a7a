"""What contrastive methods with own hard negatives share: their settings and their weights.

Shapes: B this rank's batch, N hard negatives per image, D embedding.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pipeline.core.errors import InputError
from training.core.distributed import gather_rows, rank, world_size
from training.core.schedules import linear_warmup
from training.methods.interface import MethodConfig, Moment
from training.methods.losses import Weigh, prime_log_weights
from training.randomness.draws import View, negative_view

PAPER_NEGATIVES = 65536
"""Keys in the paper's queue."""
OBJECT_HEADS = ("off", "hard", "exchange", "both")


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
        hard_mass: number of other negatives that rho is meant for, above 0: where there are n,
            log(n / this) is added to the hard negatives' logits, so that they hold the same share
            of the denominator; paper: 65536; none: nothing is added.
        object_head: a second projection head on the same backbone, whose loss takes what is about
            the object, while the first one's is plain: off; hard: it takes the hard negatives;
            exchange: its query is a further copy, on another image's background; both.
        object_weight: weight of the object head's loss, in [0, 1]; the plain one's is 1 - this.
        object_rho: rho in the object head, 0 or more.
        object_exchange_probability: share of the queries whose copy stands on another background,
            in [0, 1].
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
    hard_mass: float | Literal["paper"] | None = None
    object_head: Literal["off", "hard", "exchange", "both"] = "off"
    object_weight: float = 0.5
    object_rho: float = 3.0
    object_exchange_probability: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.temperature > 0, "temperature", "must be above 0")
        self.check(self.hard_negatives >= 0, "hard_negatives", "must not be negative")
        self.check(self.rho >= 0, "rho", "must not be negative")
        self.check(self.rho_warmup_epochs >= 0, "rho_warmup_epochs", "must not be negative")
        self.check(self.prime_power >= 0, "prime_power", "must not be negative")
        self.check(0 <= self.prime_bias <= 1, "prime_bias", "must be in [0, 1]")
        mass = self.hard_mass
        self.check(mass in (None, "paper") or float(mass) > 0, "hard_mass", "must be above 0")
        self.check(
            self.object_head in OBJECT_HEADS,
            "object_head",
            f"is unknown: choose from {', '.join(OBJECT_HEADS)}",
        )
        for name in ("object_weight", "object_exchange_probability"):
            self.check(0 <= getattr(self, name) <= 1, name, "must be in [0, 1]")
        self.check(self.object_rho >= 0, "object_rho", "must not be negative")

    @property
    def has_object_head(self) -> bool:
        """Whether there is a second projection head."""
        return self.object_head != "off"

    @property
    def exchange(self) -> float | None:
        """Share of the queries that get a further copy on another background; None: no copies."""
        exchanges = self.object_head in ("exchange", "both")
        return self.object_exchange_probability if exchanges else None

    @property
    def negative_views(self) -> tuple[int, ...]:
        """Numbers of the views that are hard negatives, source by source."""
        if self.object_head == "exchange":
            return ()
        return tuple(
            negative_view(source, index)
            for source in self.sources
            for index in range(self.hard_negatives)
        )

    def rho_at(self, moment: Moment) -> float:
        """The weight of the hard negatives at a step."""
        return linear_warmup(
            moment.step,
            value=self.object_rho if self.has_object_head else self.rho,
            warmup_steps=round(self.rho_warmup_epochs * moment.steps_per_epoch),
        )

    def log_mass(self, num_negatives: int) -> float:
        """What is added to the logits of hard negatives beside so many other negatives."""
        if self.hard_mass is None:
            return 0.0
        meant = PAPER_NEGATIVES if self.hard_mass == "paper" else float(self.hard_mass)
        return math.log(num_negatives / meant)

    def mixed(self, plain: Tensor, of_object: Tensor | None) -> Tensor:
        """The loss of both heads; None: there is no object head."""
        if of_object is None:
            return plain
        return (1 - self.object_weight) * plain + self.object_weight * of_object

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


def hard_metrics(
    hard_similarity: Tensor | None, hard_share: Tensor | None, positive_similarity: Tensor
) -> dict[str, Tensor]:
    """What is logged of hard negatives, from tensors of any shape, without gradient.

    Args:
        hard_similarity: similarities of anchors and their hard negatives; None: there are none.
        hard_share: their share of the softmax's denominator, for each anchor.
        positive_similarity: of anchors and their positives.
    """
    if hard_similarity is None or hard_share is None:
        return {}
    hard = hard_similarity.detach().mean()
    return {
        "hard_negative_similarity": hard,
        "hard_negative_share": hard_share.detach().mean(),
        "hard_negative_margin": positive_similarity.detach().mean() - hard,
    }


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
