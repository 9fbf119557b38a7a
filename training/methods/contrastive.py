"""A step of the contrastive methods with own hard negatives, MoCo v2 and SimCLR.

A second, object head (`method.object_head`) takes the hard negatives, or a query on another
background; the plain loss is then that of the first head alone.

Shapes: B this rank's batch, G global batch, N hard negatives per image, D embedding, X all heads, A
anchors (2 B in SimCLR, else B).
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.core.errors import InputError
from training.core.distributed import (
    batch_permutation,
    encode_shuffled,
    gather_rows,
    rank,
    world_size,
)
from training.core.schedules import Moment
from training.encoders.encoder import running_statistics_kept
from training.methods.interface import Method, StepResult, embedding_spread
from training.methods.settings import HardNegativeConfig
from training.randomness.draws import QUERY
from training.views.inputs import EncoderInputs
from training.views.spec import EXCHANGED, LOCAL, ViewSettings, ViewSpec

PAPER_NEGATIVES = 65536
"""Keys in the paper's queue."""
PAIR_PASS, HARD_NEGATIVE_PASS = 0, 1
"""Numbers of the shuffles: of the keys, and of the first hard negatives; the second ones' is 2."""
Encode = Callable[[Tensor], Tensor]


Weigh = Callable[[Tensor, float | Tensor], Tensor]
"""Logarithms of the weights of hard negatives [A, N], from their similarities [A, N] and the scale
that makes these logits: without gradient."""


class Similarities(NamedTuple):
    """Similarities of unit rows, in [-1, 1], before rho and temperature; without gradient."""

    positive_A: Tensor
    negative: Tensor
    """Mean over the anchors and their negatives from other images: a scalar."""
    best_negative_A: Tensor
    """Of the most similar negative from another image."""
    hard_AN: Tensor | None = None
    hard_share_A: Tensor | None = None
    """Share of the softmax's denominator that the hard negatives hold, in [0, 1]."""


class Batch(NamedTuple):
    """A step's inputs, and what all its losses share."""

    inputs: EncoderInputs
    encode: Encode
    moment: Moment
    rho: float


class Embeddings(NamedTuple):
    """Embeddings of a batch, of all heads."""

    rows_BX: Sequence[Tensor]
    """Of the query, its copy on another background if there is one, and the further queries."""
    local_BX: Sequence[Tensor]
    """Of the local crops."""
    key_GX: Tensor
    """Of the keys of the global batch."""


class ContrastiveMethod(Method):
    """Views, step and metrics that MoCo v2 and SimCLR share; `seed` decides the shuffles."""

    negative_sources: ClassVar[tuple[str, ...]]
    """Crops that hard negatives are cut from."""
    config: HardNegativeConfig

    @classmethod
    def views(cls, config: HardNegativeConfig, settings: ViewSettings) -> tuple[ViewSpec, ...]:
        """Query, key, hard negatives, the exchanged query and the further positives."""
        negatives = [
            settings.hard_negative(source, number)
            for source in cls.negative_sources
            for number in range(config.num_hard_negatives)
        ]
        copies = () if config.exchange is None else (settings.exchanged(config.exchange),)
        more = [settings.query(f"{QUERY}-{index}") for index in range(1, config.queries)]
        local = settings.local_crops()
        return (settings.query(), settings.key(), *negatives, *copies, *more, *local)

    def __init__(self, config: HardNegativeConfig, *, seed: int) -> None:
        nn.Module.__init__(self)
        self.config, self._seed = config, seed

    @abstractmethod
    def _embed(self, batch: Batch, images: list[Tensor], local: list[Tensor]) -> Embeddings:
        """Encode `images` (the first is the query), local crops and keys."""

    @abstractmethod
    def _hard_negatives(self, batch: Batch) -> tuple[Tensor, ...]:
        """The hard negatives of this rank's anchors, [B, N, D] for each of `negative_sources`."""

    @abstractmethod
    def _contrast(
        self,
        batch: Batch,
        query_BD: Tensor,
        key_GD: Tensor,
        hard_BND: tuple[Tensor, ...],
        *,
        of_object: bool,
    ) -> tuple[Tensor, Similarities]:
        """The loss of one head's rows: this rank's queries, all ranks' keys."""

    def _enqueue(self, plain_key_GD: Tensor, object_key_GD: Tensor, step: int) -> None:
        """Keep the keys of a step for later steps."""

    def step(self, inputs: EncoderInputs, *, encode: Encode, moment: Moment) -> StepResult:
        """One step's loss; what the subclass keeps of past steps is updated."""
        config, views = self.config, inputs.views
        batch = Batch(inputs, encode, moment, rho_at(config, moment))
        copies = [views[EXCHANGED]] if EXCHANGED in views else []
        images = [views[QUERY], *copies, *_of_group(views, QUERY)]
        embeddings = self._embed(batch, images, _of_group(views, LOCAL))
        hard_BND = self._hard_negatives(batch)
        heads, has_object_head = self.encoder.both_heads, self.encoder.object_head is not None
        plain_key_GD, object_key_GD = heads(embeddings.key_GX)

        def plain(rows_BX: Tensor, hard_BND: tuple[Tensor, ...]) -> tuple[Tensor, Similarities]:
            rows_BD, _ = heads(rows_BX)
            return self._contrast(batch, rows_BD, plain_key_GD, hard_BND, of_object=False)

        query_BX, *others_BX = embeddings.rows_BX
        loss, similarities = plain(query_BX, () if has_object_head else hard_BND)
        further = [plain(rows_BX, ())[0] for rows_BX in others_BX[len(copies) :]]
        if further:
            loss = torch.stack([loss, *further]).mean()
        if embeddings.local_BX:  # arXiv 2210.02808, section 3.2
            local = torch.stack([plain(rows_BX, ())[0] for rows_BX in embeddings.local_BX]).mean()
            loss = (1 - config.local_weight) * loss + config.local_weight * local
        closest_A = similarities.positive_A > similarities.best_negative_A
        metrics = {
            "positive_similarity": similarities.positive_A.mean(),
            "negative_similarity": similarities.negative,
            "instance_accuracy": closest_A.float().mean(),
            "embedding_spread": embedding_spread(plain_key_GD),
        }
        if has_object_head:
            _, object_query_BD = heads(others_BX[0] if copies else query_BX)
            object_loss, similarities = self._contrast(
                batch, object_query_BD, object_key_GD, hard_BND, of_object=True
            )
            loss = (1 - config.object_weight) * loss + config.object_weight * object_loss
            metrics["object_loss"] = object_loss.detach()
            metrics["object_positive_similarity"] = similarities.positive_A.mean()
        if similarities.hard_AN is not None and similarities.hard_share_A is not None:
            similarity = similarities.hard_AN.mean()
            metrics["hard_negative_similarity"] = similarity
            metrics["hard_negative_share"] = similarities.hard_share_A.mean()
            metrics["hard_negative_margin"] = similarities.positive_A.mean() - similarity
        self._enqueue(plain_key_GD, object_key_GD, moment.step)
        return StepResult(loss, metrics, {"rho": batch.rho})

    def _encode_shuffled(
        self, encoder: Encode, images_BCHW: Tensor, step: int, shuffle: int
    ) -> Tensor:
        """`encode_shuffled` by the order of one pass of one step."""
        order = self._order(len(images_BCHW), step, shuffle)
        try:
            return encode_shuffled(encoder, images_BCHW, order)
        except ValueError as error:
            if len(images_BCHW) > 1:
                raise
            raise InputError(
                "masks.behaviour released encodes the hard negative as a batch of one image, which "
                "has no batch statistics where the last feature map is a single position "
                f"({error}): use larger views or masks.behaviour paper"
            ) from error

    def _order(self, rank_batch: int, step: int, shuffle: int) -> Tensor:
        size = rank_batch * world_size()
        return batch_permutation(size, seed=self._seed, step=step, branch=shuffle)

    def _encode_hard_negatives(
        self, batch: Batch, encoder: Encode, module: nn.Module
    ) -> list[Tensor]:
        """This rank's hard negatives, [B, D] each, each with a shuffle of its own.

        They leave the module's running statistics as they are: at inference nothing is masked.
        """
        views, rows_BD = batch.inputs.views, []
        names = [f"negative-{source}" for source in self.negative_sources]
        images = [image for name in names for image in _of_group(views, name)]
        with running_statistics_kept(module):
            for shuffle, image_BCHW in enumerate(images, start=HARD_NEGATIVE_PASS):
                rows_GX = self._encode_shuffled(encoder, image_BCHW, batch.moment.step, shuffle)
                own_BD = self.encoder.both_heads(rows_GX)[1].chunk(world_size())[rank()]
                # The released behaviour has one hard negative for the whole batch.
                rows_BD.append(own_BD.expand(len(views[QUERY]), -1) if len(own_BD) == 1 else own_BD)
        return rows_BD


def mean_loss(loss_A: Tensor, weights_A: Tensor | None) -> Tensor:
    """The mean of the anchors' losses times their weights; None: 1."""
    return loss_A.mean() if weights_A is None else (loss_A * weights_A).mean()


def hard_logits(
    anchors_AD: Tensor,
    hard_negatives_AND: Tensor,
    scale: float | Tensor,
    weigh: Weigh | None,
    log_mass: float,
) -> tuple[Tensor, Tensor]:
    """Similarities of anchors to their hard negatives, detached, and the logits of their terms."""
    hard_AN = (hard_negatives_AND @ anchors_AD[:, :, None]).squeeze(2)
    logits_AN = scale * hard_AN if log_mass == 0 else scale * hard_AN + log_mass
    if weigh is not None:
        logits_AN = logits_AN + weigh(hard_AN, scale)
    return hard_AN.detach(), logits_AN


@torch.no_grad()
def hard_share(hard_logits_AN: Tensor, logits: Tensor) -> Tensor:
    """The hard negatives' share of the denominator, [A]; `logits` holds theirs too."""
    return (hard_logits_AN.logsumexp(dim=1) - logits.logsumexp(dim=1)).exp()


@torch.no_grad()
def prime_log_weights(
    similarity_AN: Tensor, *, scale: float | Tensor, power: float, bias: float
) -> Tensor:
    """Weights of hard negatives by the rank of their similarity: the most similar count most.

    w = ((1 - bias) * (n - rank) / n + bias) ** power with rank 0 for the most similar of all n,
    then all scaled by one factor so that the total of the weighted terms is that of the unweighted
    ones: sum of w * exp(scale * s) = sum of exp(scale * s). After the importance-based reweighting
    of Cao et al., "Prime Sample Attention in Object Detection", CVPR 2020, section 4.2, which ranks
    detections and keeps the total of their losses.

    Takes the similarities of anchors to their hard negatives, and the scale that makes logits of
    them, rho / temperature. Returns the logarithms of the weights, without gradient.
    """
    flat = similarity_AN.flatten()
    rank = torch.argsort(torch.argsort(flat, descending=True, stable=True))
    share = (len(flat) - rank).to(flat.dtype) / len(flat)
    log_weight = power * torch.log((1.0 - bias) * share + bias)
    logits = scale * flat
    kept = torch.logsumexp(logits, 0) - torch.logsumexp(logits + log_weight, 0)
    return (log_weight + kept).view_as(similarity_AN)


def _of_group(views: Mapping[str, Tensor], name: str) -> list[Tensor]:
    """The views `name-0`, `name-1`... in order."""
    return [image for view, image in views.items() if view.startswith(f"{name}-")]


def rho_at(config: HardNegativeConfig, moment: Moment) -> float:
    """The weight of the hard negatives at a step; it rises linearly from 0 during the warm-up."""
    rho = config.rho if config.object_head == "off" else config.object_rho
    warmup_steps = round(config.rho_warmup_epochs * moment.steps_per_epoch)
    return rho if moment.step >= warmup_steps else rho * moment.step / warmup_steps


def log_mass(config: HardNegativeConfig, num_negatives: int) -> float:
    """What is added to the logits of hard negatives beside so many other negatives."""
    if config.hard_mass is None:
        return 0.0
    meant = PAPER_NEGATIVES if config.hard_mass == "paper" else float(config.hard_mass)
    return math.log(num_negatives / meant)


def weigh_for(config: HardNegativeConfig) -> Weigh | None:
    """The weights of hard negatives for the loss; None: all alike."""
    if not config.prime_weights:
        return None

    def weigh(similarity_AN: Tensor, scale: float | Tensor) -> Tensor:
        """Ranks over the global batch, so that the number of ranks makes no difference."""
        weights = prime_log_weights(
            gather_rows(similarity_AN.detach()),
            scale=scale,
            power=config.prime_power,
            bias=config.prime_bias,
        )
        return weights.chunk(world_size())[rank()]

    return weigh
