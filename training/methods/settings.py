"""Settings that methods share. They import no torch."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.core.errors import check

OBJECT_HEADS = ("off", "hard", "exchange", "both")
HARD_KINDS = ("own", "matched", "both")
OF_HARD_NEGATIVES = (
    *("hard_kind", "rho", "rho_warmup_epochs", "object_rho", "hard_mass"),
    *("prime_weights", "prime_power", "prime_bias"),
)
"""Fields about hard negatives."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Settings that every method has; a method's own class has its ``name``.

    Attributes:
        embedding_dim: D, length of the embeddings that are compared, 1 or more.
        head_layers: linear layers of the projection head, a ReLU between two, 1 or more.
        head_width: width of its inner layers, 1 or more; none: that of the features.
        head_batch_norm: whether batch norm stands behind its inner layers.
        batch_norm_group: samples that share batch statistics, 2 or more, divides each worker's
            batch; none: a worker's whole batch (then the statistics depend on the number of
            workers).
    """

    name: ClassVar[str]
    embedding_dim: int = 128
    head_layers: int = 2
    head_width: int | None = None
    head_batch_norm: bool = False
    batch_norm_group: int | None = 32

    def __post_init__(self) -> None:
        self.check(self.embedding_dim >= 1, "embedding_dim", "must be 1 or more")
        self.check(self.head_layers >= 1, "head_layers", "must be 1 or more")
        self.check(self.head_width is None or self.head_width >= 1, "head_width", "must be above 0")
        group = self.batch_norm_group
        self.check(group is None or group >= 2, "batch_norm_group", "must be 2 or more")

    def check(self, fits: bool, name: str, wanted: str) -> None:
        """Raises ``InputError`` naming a field unless it fits."""
        check(fits, f"method.{name} {getattr(self, name)} {wanted}")

    @classmethod
    def variants(cls) -> "dict[str, type[MethodConfig]]":
        """The settings of every method, by its name."""
        below: list[type[MethodConfig]] = [MethodConfig]
        for kind in below:
            below += kind.__subclasses__()
        return {kind.name: kind for kind in below if "name" in vars(kind)}

    def renamed(self, name: str) -> "MethodConfig":
        """The defaults of another method; batch-norm groups go by the batch, and stay."""
        if name == self.name:
            return self
        variants = self.variants()
        known = ", ".join(sorted(variants))
        check(name in variants, f"unknown method {name!r}: choose one of {known}")
        return variants[name](batch_norm_group=self.batch_norm_group)

    @property
    def has_object_head(self) -> bool:
        """Whether there is a second projection head."""
        return False

    def idle(self) -> dict[str, str]:
        """Fields that have no effect beside the others, each with the reason."""
        return {}

    def check_batch(self, batch_size: int, num_ranks: int) -> None:
        """Raises ``InputError`` unless the global batch fits ranks and batch-norm groups."""
        rank_batch, group = batch_size // num_ranks, self.batch_norm_group
        check(
            rank_batch >= 2,
            f"{num_ranks} ranks leave {rank_batch} image each of a global batch of {batch_size}: "
            f"batch norm needs 2, use at most {batch_size // 2} ranks",
        )
        check(
            group is None or rank_batch % group == 0,
            f"method.batch_norm_group {group} does not divide the {rank_batch} images of a rank "
            f"(global batch {batch_size} over {num_ranks} ranks): "
            f"try {math.gcd(group or 1, rank_batch)} or fewer ranks",
        )


@dataclass(frozen=True, kw_only=True)
class HardNegativeConfig(MethodConfig):
    """Settings of a contrastive loss with the image's own hard negatives.

    Attributes:
        temperature: of the softmax over similarities, above 0.
        hard_negatives: own hard negatives per image, 0 or more: several masks of the same view; 0:
            none of any kind.
        hard_kind: which hard negatives: own; matched: one, the next image's object on the
            background of the image's own view, as cut; both.
        rho: weight of the similarity to a hard negative, 0 or more.
        rho_warmup_epochs: epochs over which rho rises linearly from 0, 0 or more.
        prime_weights: weigh the hard negatives by the rank of their similarity.
        prime_power: exponent of these weights, 0 or more: 0 makes all alike.
        prime_bias: weight of the easiest one before the exponent, in [0, 1].
        hard_mass: number of other negatives that rho is meant for, above 0: where there are n,
            log(n / this) is added to the hard negatives' logits, so that they hold the same share
            of the denominator; paper: 65536; none: nothing is added.
        queries: masked queries of every image, each with a crop of its own, 1 or more. The plain
            loss is their mean; hard negatives and the object head belong to the first.
        local_weight: weight of the local crops' loss (--views.local), in [0, 1]; that of the
            queries' plain loss is 1 - this.
        object_head: a second projection head on the same backbone, whose loss takes what is about
            the object, while the first one's is plain: off; hard: it takes the hard negatives;
            exchange: its query is a further copy, on another image's background; both.
        object_weight: weight of the object head's loss, in [0, 1]; the plain one's is 1 - this.
        object_rho: rho in the object head, 0 or more.
        object_exchange_probability: share of the queries whose copy stands on another background,
            in [0, 1].
    """

    temperature: float = 0.2
    hard_negatives: int = 1
    hard_kind: Literal["own", "matched", "both"] = "own"
    rho: float = 2.0
    rho_warmup_epochs: float = 0.0
    prime_weights: bool = False
    prime_power: float = 0.5
    prime_bias: float = 0.0
    hard_mass: float | Literal["paper"] | None = None
    queries: int = 1
    local_weight: float = 0.6
    object_head: Literal["off", "hard", "exchange", "both"] = "off"
    object_weight: float = 0.5
    object_rho: float = 3.0
    object_exchange_probability: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.temperature > 0, "temperature", "must be above 0")
        self.check(self.queries >= 1, "queries", "must be 1 or more")
        for name in ("hard_negatives", "rho", "rho_warmup_epochs", "prime_power", "object_rho"):
            self.check(getattr(self, name) >= 0, name, "must not be negative")
        for name in ("prime_bias", "object_weight", "object_exchange_probability", "local_weight"):
            self.check(0 <= getattr(self, name) <= 1, name, "must be in [0, 1]")
        mass = self.hard_mass
        self.check(mass in (None, "paper") or float(mass) > 0, "hard_mass", "must be above 0")
        for name, known in (("object_head", OBJECT_HEADS), ("hard_kind", HARD_KINDS)):
            choices = f"is unknown: choose from {', '.join(known)}"
            self.check(getattr(self, name) in known, name, choices)

    @property
    def has_object_head(self) -> bool:
        """Whether there is a second projection head."""
        return self.object_head != "off"

    def idle(self) -> dict[str, str]:
        """Fields that have no effect beside the others, each with the reason."""
        head = f"beside --method.object-head {self.object_head}"
        found: dict[str, str] = {}
        if not self.prime_weights:
            found |= dict.fromkeys(("prime_power", "prime_bias"), "without --method.prime-weights")
        if self.exchange is None:
            found["object_exchange_probability"] = f"{head}, where no background is exchanged"
        if self.has_object_head:
            found["rho"] = f"{head}, which takes the hard negatives with --method.object-rho"
        else:
            found |= dict.fromkeys(("object_weight", "object_rho"), head)
        if self.hard_negatives == 0 or self.object_head == "exchange":
            why = head if self.hard_negatives else "beside --method.hard-negatives 0"
            found |= dict.fromkeys(OF_HARD_NEGATIVES, f"{why}: there are no hard negatives")
        return found

    @property
    def exchange(self) -> float | None:
        """Share of the queries that get a further copy on another background; None: no copies."""
        exchanges = self.object_head in ("exchange", "both")
        return self.object_exchange_probability if exchanges else None

    @property
    def num_hard_negatives(self) -> int:
        """Own hard negatives that are cut from each source."""
        none = self.object_head == "exchange" or self.hard_kind == "matched"
        return 0 if none else self.hard_negatives

    @property
    def has_matched_negatives(self) -> bool:
        """Whether each anchor has a matched hard negative."""
        takes = self.object_head != "exchange" and self.hard_negatives > 0
        return takes and self.hard_kind != "own"
