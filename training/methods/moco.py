"""MoCo v2 with the image's own hard negatives.

Chen et al., arXiv 2003.04297; the hard negatives: arXiv 2309.12757, after Ge et al., NeurIPS 2021.

Shapes: B this rank's batch, G global batch, N hard negatives per image, D embedding, K queue.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.core.errors import InputError
from training.core.distributed import (
    average_buffers,
    batch_permutation,
    encode_shuffled,
    rank,
    world_size,
)
from training.encoders.batch_norm import running_statistics_kept
from training.encoders.encoder import Backbone
from training.methods.hard_negatives import (
    HardNegativeConfig,
    embedding_spread,
    hard_metrics,
    one_for_each,
    too_small_for_one,
)
from training.methods.interface import (
    Method,
    Moment,
    PlainEmbedder,
    ProjectedBackbone,
    StepResult,
    both_heads,
    half_cosine,
)
from training.methods.key_queue import KeyQueue, check_queue_size
from training.methods.losses import InfoNCELogits, info_nce
from training.methods.momentum import momentum_copy, update_momentum
from training.randomness.draws import View
from training.views.inputs import EncoderInputs

KEY_PASS, HARD_NEGATIVE_PASS = 0, 1
"""Shuffles of the key encoder's passes; the second hard negative's pass is 2, and so on."""


@dataclass(frozen=True, kw_only=True)
class MoCoConfig(HardNegativeConfig):
    """The method's settings; the defaults are the paper's.

    Attributes:
        queue_size: K, keys in the queue, 1 or more: a multiple of --batch-size.
        key_momentum: share of the key encoder kept at a step, in [0, 1).
        key_momentum_end: the same at the end, in [0, 1], reached along half a cosine; none: it
            stays.
    """

    name: ClassVar[str] = "moco_v2"
    sources: ClassVar[tuple[View, ...]] = (View.KEY,)

    queue_size: int = 65536
    key_momentum: float = 0.999
    key_momentum_end: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(0 <= self.key_momentum < 1, "key_momentum", "must be in [0, 1)")
        end = self.key_momentum_end
        self.check(end is None or 0 <= end <= 1, "key_momentum_end", "must be in [0, 1]")
        self.check(self.queue_size >= 1, "queue_size", "must be 1 or more")

    def key_momentum_at(self, moment: Moment) -> float:
        """The share of the key encoder that is kept at a step."""
        if self.key_momentum_end is None:
            return self.key_momentum
        return half_cosine(moment, self.key_momentum, self.key_momentum_end)

    def check_batch(self, batch_size: int, num_ranks: int) -> None:
        """Raises ``InputError`` unless the global batch fits queue, ranks and groups."""
        check_queue_size(self.queue_size, batch_size)
        super().check_batch(batch_size, num_ranks)
        if num_ranks == 1 and self.batch_norm_group in (None, batch_size):
            raise InputError(
                f"method.batch_norm_group {self.batch_norm_group} leaves one group for the whole "
                f"batch of {batch_size}: query and key would share their batch statistics, by "
                f"which keys can be told; try {max(2, batch_size // 2)}"
            )


class MoCoV2(Method):
    """Query encoder, momentum encoder, queue and loss; the query encoder's backbone is kept.

    Keys and hard negatives take no gradient.

    Args:
        config: settings.
        backbone: the network to pretrain.
        batch_size: global batch.
        seed: of the queue's first keys and the shuffles.
    """

    config_type = MoCoConfig

    def __init__(
        self, config: MoCoConfig, backbone: Backbone, *, batch_size: int, seed: int
    ) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.query_encoder = ProjectedBackbone(backbone, config)
        self.key_encoder = momentum_copy(self.query_encoder)
        generator = torch.Generator().manual_seed(seed)
        sizes = config.queue_size, config.embedding_dim
        self.queue = KeyQueue(*sizes, batch_size=batch_size, generator=generator)
        self.object_queue = (
            KeyQueue(*sizes, batch_size=batch_size, generator=generator)
            if config.has_object_head
            else None
        )
        self._seed = seed

    @property
    def backbone(self) -> Backbone:
        """The query encoder's."""
        return self.query_encoder.backbone

    @property
    def embedder(self) -> PlainEmbedder:
        """The query encoder with its plain head."""
        return PlainEmbedder(self.query_encoder)

    @property
    def trained(self) -> nn.Module:
        """The query encoder."""
        return self.query_encoder

    def step(
        self, inputs: EncoderInputs, *, encode: Callable[[Tensor], Tensor], moment: Moment
    ) -> StepResult:
        """One step's loss; updates the key encoder before and the queue after it.

        Keys and hard negatives go through the key encoder apart, each with its own shuffle: one
        concatenated pass would change the batch statistics.
        """
        config, batch = self.config, len(inputs.query_BCHW)
        queries = [inputs.query_BCHW]
        if inputs.exchanged_BCHW is not None:
            queries.append(inputs.exchanged_BCHW)
        query_BX, *copies = encode(torch.cat(queries)).split(batch)
        update_momentum(self.key_encoder, self.query_encoder, config.key_momentum_at(moment))
        key_GX = self._encode_keys(inputs.key_BCHW, moment.step, KEY_PASS)
        hard = self._hard_negatives(inputs.negatives.get(View.KEY, ()), moment.step, batch)
        key_GD, object_key_GD = both_heads(key_GX, config)
        loss, similarities = self._contrast(
            both_heads(query_BX, config)[0],
            key_GD,
            self.queue,
            inputs,
            moment,
            None if config.has_object_head else hard,
        )
        with torch.no_grad():
            best_B = similarities.queue_BK.amax(dim=1)
            metrics = {
                "positive_similarity": similarities.positive_B.mean(),
                "negative_similarity": similarities.queue_BK.mean(),
                "instance_accuracy": (similarities.positive_B > best_B).float().mean(),
                "embedding_spread": embedding_spread(key_GD),
            }
        object_loss = None
        if self.object_queue is not None:
            _, object_query_BD = both_heads(copies[0] if copies else query_BX, config)
            object_loss, similarities = self._contrast(
                object_query_BD, object_key_GD, self.object_queue, inputs, moment, hard
            )
            metrics["object_loss"] = object_loss.detach()
            metrics["object_positive_similarity"] = similarities.positive_B.detach().mean()
        metrics |= hard_metrics(
            similarities.hard_BN, similarities.hard_share_B, similarities.positive_B
        )
        return StepResult(config.mixed(loss, object_loss), metrics, {"rho": config.rho_at(moment)})

    def _contrast(
        self,
        query_BD: Tensor,
        key_GD: Tensor,
        queue: KeyQueue,
        inputs: EncoderInputs,
        moment: Moment,
        hard_negatives_BND: Tensor | None,
    ) -> tuple[Tensor, InfoNCELogits]:
        """InfoNCE of one head's rows: this rank's queries, all ranks' keys; enqueues the keys."""
        config = self.config
        contrasted = info_nce(
            query_BD,
            key_GD.chunk(world_size())[rank()],
            # The queue is overwritten below, before the backward pass needs these keys.
            queue.keys.clone(),
            temperature=config.temperature,
            hard_negatives_BND=hard_negatives_BND,
            rho=config.rho_at(moment),
            log_mass=config.log_mass(config.queue_size),
            weigh=config.weigh(),
            weights_B=inputs.weights_B,
        )
        queue.enqueue(key_GD, step=moment.step)
        return contrasted

    def _hard_negatives(self, images: Sequence[Tensor], step: int, batch: int) -> Tensor | None:
        """This rank's hard negatives, [B, N, D].

        They leave the running statistics alone: at inference nothing is masked.
        """
        if not images:
            return None
        with running_statistics_kept(self.key_encoder):
            encoded = [
                self._encode_keys(image_BCHW, step, HARD_NEGATIVE_PASS + index)
                for index, image_BCHW in enumerate(images)
            ]
        own = [both_heads(rows_GX, self.config)[1] for rows_GX in encoded]
        mine = [rows_GD.chunk(world_size())[rank()] for rows_GD in own]
        return torch.stack([one_for_each(rows_BD, batch) for rows_BD in mine], dim=1)

    @torch.no_grad()
    def _encode_keys(self, images_BCHW: Tensor, step: int, branch: int) -> Tensor:
        permutation = batch_permutation(
            len(images_BCHW) * world_size(), seed=self._seed, step=step, branch=branch
        )
        try:
            return encode_shuffled(self.key_encoder, images_BCHW, permutation)
        except ValueError as error:
            if len(images_BCHW) == 1:
                raise too_small_for_one(error) from error
            raise

    def average_statistics(self) -> None:
        """Averages both encoders' batch-norm statistics over the ranks."""
        average_buffers(self.query_encoder)
        average_buffers(self.key_encoder)
