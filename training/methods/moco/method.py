"""MoCo v2 with the image's own hard negatives.

Chen et al., arXiv 2003.04297; the hard negatives: arXiv 2309.12757, after Ge et al., NeurIPS 2021.

Shapes: B this rank's batch, G global batch, N hard negatives per image, D embedding, K queue.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from training.core.distributed import (
    average_buffers,
    batch_permutation,
    encode_shuffled,
    rank,
    world_size,
)
from training.core.schedules import Moment
from training.encoders.encoder import Backbone, running_statistics_kept
from training.methods.hard_negatives import (
    declared,
    embedding_spread,
    further_queries,
    hard_metrics,
    local_crops,
    mixed_loss,
    negatives_of,
    one_for_each,
    plain_loss,
    too_small_for_one,
    weigh_for,
)
from training.methods.interface import (
    Method,
    PlainEmbedder,
    ProjectedBackbone,
    StepResult,
    both_heads,
)
from training.methods.losses import InfoNCELogits, info_nce
from training.methods.moco.key_queue import KeyQueue
from training.methods.moco.settings import MoCoConfig
from training.methods.momentum import momentum_copy, update_momentum
from training.randomness.draws import KEY, QUERY
from training.views.inputs import EncoderInputs
from training.views.spec import EXCHANGED, ViewSettings, ViewSpec

KEY_PASS, HARD_NEGATIVE_PASS = 0, 1
"""Shuffles of the key encoder's passes; the second hard negative's pass is 2, and so on."""


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

    @classmethod
    def views(cls, config: MoCoConfig, settings: ViewSettings) -> tuple[ViewSpec, ...]:
        """Query, key, hard negatives cut from the key, and the exchanged query."""
        return declared(config, (KEY,), settings)

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
        config, views = self.config, inputs.views
        batch = len(views[QUERY])
        copies = [views[EXCHANGED]] if EXCHANGED in views else []
        images = [views[QUERY], *copies, *further_queries(views)]
        query_BX, *others_BX = encode(torch.cat(images)).split(batch)
        copies_BX, more_BX = others_BX[: len(copies)], others_BX[len(copies) :]
        local = local_crops(views)
        local_BX = encode(torch.cat(local)).split(batch) if local else ()
        update_momentum(self.key_encoder, self.query_encoder, config.key_momentum_at(moment))
        key_GX = self._encode_keys(views[KEY], moment.step, KEY_PASS)
        hard = self._hard_negatives(negatives_of(KEY, views), moment.step, batch)
        key_GD, object_key_GD = both_heads(key_GX, config)
        queue_KD = self.queue.keys.clone() if more_BX or local_BX else self.queue.keys
        loss, similarities = self._contrast(
            both_heads(query_BX, config)[0],
            key_GD,
            self.queue,
            inputs,
            moment,
            None if config.has_object_head else hard,
        )
        loss = plain_loss(
            config,
            loss,
            *(
                [self._contrast_more(rows_BX, key_GD, queue_KD, inputs) for rows_BX in rows]
                for rows in (more_BX, local_BX)
            ),
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
            _, object_query_BD = both_heads(copies_BX[0] if copies_BX else query_BX, config)
            object_loss, similarities = self._contrast(
                object_query_BD, object_key_GD, self.object_queue, inputs, moment, hard
            )
            metrics["object_loss"] = object_loss.detach()
            metrics["object_positive_similarity"] = similarities.positive_B.detach().mean()
        metrics |= hard_metrics(
            similarities.hard_BN, similarities.hard_share_B, similarities.positive_B
        )
        return StepResult(
            mixed_loss(config, loss, object_loss), metrics, {"rho": config.rho_at(moment)}
        )

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
            weigh=weigh_for(config),
            weights_B=inputs.weights_B,
        )
        queue.enqueue(key_GD, step=moment.step)
        return contrasted

    def _contrast_more(
        self, rows_BX: Tensor, key_GD: Tensor, queue_KD: Tensor, inputs: EncoderInputs
    ) -> Tensor:
        """InfoNCE of further queries or local crops; `queue_KD` as the first query saw it."""
        loss, _ = info_nce(
            both_heads(rows_BX, self.config)[0],
            key_GD.chunk(world_size())[rank()],
            queue_KD,
            temperature=self.config.temperature,
            weights_B=inputs.weights_B,
        )
        return loss

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
