"""A step of the contrastive methods with hard negatives, MoCo v2 and SimCLR.

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
from torch.nn import functional

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
from training.methods.interface import Encode, Method, StepResult, embedding_spread
from training.methods.prime_weights import prime_log_weights
from training.methods.settings import HardNegativeConfig
from training.randomness.draws import QUERY
from training.views.inputs import EncoderInputs
from training.views.spec import EXCHANGED, LOCAL, MATCHED, ViewSettings, ViewSpec

PAPER_NEGATIVES = 65536  # keys in the paper's queue
PAIR_PASS, HARD_NEGATIVE_PASS = 0, 1
"""Numbers of the shuffles: of the keys, and of the first hard negatives; the second ones' is 2."""


class HardNegatives(NamedTuple):
    """The anchors' own hard negatives, and what their terms of the denominator are."""

    rows_AND: Tensor
    """Unit rows, N of each anchor."""
    rho: float | Tensor
    """Weight of the similarity, inside the exponential; a tensor may change without recompiling."""
    log_mass: float = 0.0
    """Added to the logits."""
    weigh: Callable[[Tensor, float | Tensor], Tensor] | None = None
    """Gives the logarithms of the terms' weights [A, N], without gradient, from the similarities
    [A, N] and the scale that makes logits of them; None: all weights are 1."""


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


def softmax_loss(
    logits: Tensor,
    target_A: Tensor,
    anchors_AD: Tensor,
    hard: HardNegatives | None,
    *,
    temperature: float,
    weights_A: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Cross entropy of the logits and those of the hard negatives: exp(rho * s / temperature) each.

    Returns:
        The mean of the anchors' losses times their weights (None: 1); the similarities [A, N] and
        the share [A] of the hard negatives, if any.
    """
    hard_AN = share_A = None
    if hard is not None:
        scale = hard.rho / temperature
        hard_AN = (hard.rows_AND @ anchors_AD[:, :, None]).squeeze(2)
        hard_logits_AN = scale * hard_AN
        if hard.log_mass:
            hard_logits_AN = hard_logits_AN + hard.log_mass
        if hard.weigh is not None:
            hard_logits_AN = hard_logits_AN + hard.weigh(hard_AN, scale)
        logits, hard_AN = torch.cat((logits, hard_logits_AN), dim=1), hard_AN.detach()
        with torch.no_grad():
            share_A = (hard_logits_AN.logsumexp(dim=1) - logits.logsumexp(dim=1)).exp()
    loss_A = functional.cross_entropy(logits, target_A, reduction="none")
    loss = loss_A.mean() if weights_A is None else (loss_A * weights_A).mean()
    return loss, hard_AN, share_A


def rho_at(config: HardNegativeConfig, moment: Moment) -> float:
    """The weight of hard negatives at a step; it rises linearly from 0 during the warm-up."""
    rho = config.rho if config.object_head == "off" else config.object_rho
    warmup_steps = round(config.rho_warmup_epochs * moment.steps_per_epoch)
    return rho if moment.step >= warmup_steps else rho * moment.step / warmup_steps


def log_mass(config: HardNegativeConfig, num_negatives: int) -> float:
    """What is added to the logits of hard negatives beside so many other negatives."""
    meant = PAPER_NEGATIVES if config.hard_mass == "paper" else config.hard_mass
    return 0.0 if meant is None else math.log(num_negatives / float(meant))


class Batch(NamedTuple):
    """The arguments of a step."""

    inputs: EncoderInputs
    encode: Encode
    moment: Moment


class HeadRows(NamedTuple):
    """The embeddings that one head's loss compares: this rank's queries, all ranks' keys."""

    query_BD: Tensor
    key_GD: Tensor
    hard: HardNegatives | None
    weights_B: Tensor | None
    of_object: bool = False
    queue_KD: Tensor | None = None
    """The keys of past steps, where they are not those of now."""


Embeddings = tuple[Sequence[Tensor], Sequence[Tensor], Tensor]
"""Rows of all heads: [B, X] of each query and of each local crop, [G, X] of all ranks' keys."""
Contrast = tuple[Tensor, Similarities]


class ContrastiveMethod(Method):
    """Views, step and metrics that MoCo v2 and SimCLR share; `seed` decides the shuffles."""

    negative_sources: ClassVar[tuple[str, ...]]
    """The crops that own hard negatives are cut from, for each of the anchors."""
    anchors: ClassVar[tuple[str, ...]]
    """The crops whose rows are anchors: a matched negative has the background of its anchor."""
    config: HardNegativeConfig

    @classmethod
    def views(cls, config: HardNegativeConfig, settings: ViewSettings) -> tuple[ViewSpec, ...]:
        """Query, key, hard negatives, the exchanged query and the further positives."""
        numbers = range(config.num_hard_negatives)
        negatives = [settings.hard_negative(s, i) for s in cls.negative_sources for i in numbers]
        if config.has_matched_negatives:
            negatives += [settings.matched_negative(anchor) for anchor in cls.anchors]
        copies = [] if config.exchange is None else [settings.exchanged(config.exchange)]
        more = [settings.query(f"{QUERY}-{index}") for index in range(1, config.queries)]
        local = settings.local_crops()
        return (settings.query(), settings.key(), *negatives, *copies, *more, *local)

    def __init__(self, config: HardNegativeConfig, *, seed: int) -> None:
        nn.Module.__init__(self)
        self.config, self._seed = config, seed

    @property
    def negative_encoder(self) -> nn.Module:
        """Encodes the hard negatives."""
        return self.encoder

    @property
    def negative_gradient(self) -> bool:
        """Whether gradients flow through the hard negatives; their encoder is `trained` then."""
        return False

    @abstractmethod
    def _embed(self, batch: Batch, queries: list[Tensor], local: list[Tensor]) -> Embeddings:
        """Encode queries, local crops and keys."""

    @abstractmethod
    def _contrast(self, rows: HeadRows) -> Contrast:
        """The loss of one head's rows."""

    @abstractmethod
    def _num_negatives(self, rank_batch: int) -> int:
        """The negatives that an anchor has besides its own hard ones."""

    def _enqueue(self, plain_key_GD: Tensor, object_key_GD: Tensor, step: int) -> None:
        """Keep the keys of a step for later steps."""

    def step(self, inputs: EncoderInputs, *, encode: Encode, moment: Moment) -> StepResult:
        """One step's loss; what the subclass keeps of past steps is updated."""
        config, views, weights_B = self.config, inputs.views, inputs.weights_B
        batch = Batch(inputs, encode, moment)
        copies = [views[EXCHANGED]] if EXCHANGED in views else []
        queries, local = [views[QUERY], *copies, *_of_group(views, QUERY)], _of_group(views, LOCAL)
        (query_BX, *others_BX), local_BX, key_GX = self._embed(batch, queries, local)
        hard = self._hard_negatives(batch)
        heads, has_object_head = self.encoder.both_heads, self.encoder.object_head is not None
        plain_key_GD, object_key_GD = heads(key_GX)

        def plain(rows_BX: Tensor, hard: HardNegatives | None = None) -> Contrast:
            return self._contrast(HeadRows(heads(rows_BX)[0], plain_key_GD, hard, weights_B))

        loss, similarities = plain(query_BX, None if has_object_head else hard)
        further = [plain(rows_BX)[0] for rows_BX in others_BX[len(copies) :]]
        loss = torch.stack([loss, *further]).mean()
        if local_BX:  # arXiv 2210.02808, section 3.2
            local_loss = torch.stack([plain(rows_BX)[0] for rows_BX in local_BX]).mean()
            loss = (1 - config.local_weight) * loss + config.local_weight * local_loss
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
                HeadRows(object_query_BD, object_key_GD, hard, weights_B, of_object=True)
            )
            loss = (1 - config.object_weight) * loss + config.object_weight * object_loss
            metrics["object_loss"] = object_loss.detach()
            metrics["object_positive_similarity"] = similarities.positive_A.mean()
        if similarities.hard_AN is not None and similarities.hard_share_A is not None:
            metrics["hard_negative_similarity"] = similarity = similarities.hard_AN.mean()
            if any(view.startswith(f"{MATCHED}-") for view in views):
                metrics["matched_negative_similarity"] = similarities.hard_AN[:, -1].mean()
            metrics["hard_negative_share"] = similarities.hard_share_A.mean()
            metrics["hard_negative_margin"] = similarities.positive_A.mean() - similarity
        rows = query_BX.detach(), plain_key_GD.detach()
        kept = HeadRows(*rows, None, weights_B, queue_KD=self._past_keys())
        self._enqueue(plain_key_GD, object_key_GD, moment.step)
        return StepResult(loss, metrics, {"rho": rho_at(config, moment)}, kept)

    def _past_keys(self) -> Tensor | None:
        """The plain head's keys of past steps, where there are some."""
        return None

    def adversary_loss(self, query_BCHW: Tensor, kept: HeadRows) -> Tensor:
        """The plain head's loss, without hard negatives, against the step's keys and old queue."""
        with running_statistics_kept(self.encoder):
            plain_BD, _ = self.encoder.both_heads(self.encoder(query_BCHW))
        return self._contrast(kept._replace(query_BD=plain_BD))[0]

    def _order(self, rank_batch: int, step: int, shuffle: int) -> Tensor:
        """The permutation of the global batch that one pass of one step is encoded in."""
        size = rank_batch * world_size()
        return batch_permutation(size, seed=self._seed, step=step, branch=shuffle)

    def _hard_negatives(self, batch: Batch) -> HardNegatives | None:
        """The hard negatives of this rank's anchors, each view of them with a shuffle of its own.

        They are encoded apart from the keys: one concatenated pass would change the batch
        statistics. Running statistics stay as they are: at inference nothing is masked.
        """
        config, views, module = self.config, batch.inputs.views, self.negative_encoder
        images = []
        for source, anchor in zip(self.negative_sources, self.anchors, strict=True):
            for group in (f"negative-{source}", f"{MATCHED}-{anchor}"):
                images += _of_group(views, group)
        if not images:
            return None
        encoder, size = batch.encode if self.negative_gradient else module, len(views[QUERY])
        rows_BD = []
        with torch.set_grad_enabled(self.negative_gradient), running_statistics_kept(module):
            for shuffle, image_BCHW in enumerate(images, start=HARD_NEGATIVE_PASS):
                order = self._order(len(image_BCHW), batch.moment.step, shuffle)
                try:
                    rows_GX = encode_shuffled(encoder, image_BCHW, order)
                except ValueError as error:
                    if len(image_BCHW) > 1:
                        raise
                    raise InputError(
                        "masks.behaviour released encodes a hard negative alone, and one position "
                        f"has no batch statistics ({error}): use larger views or masks.behaviour "
                        "paper"
                    ) from error
                own_BD = self.encoder.both_heads(rows_GX)[1].chunk(world_size())[rank()]
                rows_BD.append(own_BD.expand(size, -1))  # released: one for the whole batch
            rows_BND = torch.stack(rows_BD, dim=1)
            rows_AND = torch.cat(rows_BND.chunk(len(self.negative_sources), dim=1))
        rho, weigh = rho_at(config, batch.moment), self._weigh if config.prime_weights else None
        return HardNegatives(rows_AND, rho, log_mass(config, self._num_negatives(size)), weigh)

    def _weigh(self, similarity_AN: Tensor, scale: float | Tensor) -> Tensor:
        """Ranks over the global batch, so that the number of processes makes no difference."""
        everyones, config = gather_rows(similarity_AN.detach()), self.config
        power, bias = config.prime_power, config.prime_bias
        weights = prime_log_weights(everyones, scale=scale, power=power, bias=bias)
        return weights.chunk(world_size())[rank()]


def _of_group(views: Mapping[str, Tensor], name: str) -> list[Tensor]:
    """The views `name-0`, `name-1`... in order."""
    return [image for view, image in views.items() if view.startswith(f"{name}-")]
