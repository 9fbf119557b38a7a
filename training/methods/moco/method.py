"""MoCo v2 with the image's own hard negatives.

Chen et al., arXiv 2003.04297; the hard negatives: arXiv 2309.12757, after Ge et al., NeurIPS 2021.

Shapes: B this rank's batch, G global batch, N hard negatives per image, D embedding, K queue.
"""

import torch
from torch import Tensor, nn

from training.core.distributed import average_buffers, encode_shuffled, rank, world_size
from training.core.schedules import Moment, half_cosine
from training.encoders.encoder import Backbone
from training.methods.contrastive import (
    PAIR_PASS,
    Batch,
    Contrast,
    ContrastiveMethod,
    Embeddings,
    HardNegatives,
    HeadRows,
    Similarities,
    softmax_loss,
)
from training.methods.interface import (
    ProjectedBackbone,
    encode_together,
    momentum_copy,
    update_momentum,
)
from training.methods.moco.settings import MoCoConfig
from training.randomness.draws import KEY, QUERY


def info_nce(
    query_BD: Tensor,
    key_BD: Tensor,
    queue_KD: Tensor,
    *,
    temperature: float,
    hard: HardNegatives | None = None,
    weights_B: Tensor | None = None,
) -> Contrast:
    """MoCo's InfoNCE of unit rows, with each query's own hard negatives in the denominator.

    logits = [q.k+, q.queue, rho * q.k-] / temperature, cross entropy with target 0, mean over the
    batch of the losses times `weights_B` (arXiv 2309.12757, section 3.3; the weighted term is that
    of Ge et al., "Robust Contrastive Learning Using Negative Samples with Diminished Semantics",
    NeurIPS 2021). The gradient flows through the queries, and through rows that take one.

    At rho 0 a hard negative still adds exp(0) to the denominator: to have none, pass none.
    Identical embeddings give log(K + 1 + N * exp((rho - 1) / temperature)), uniform similarities
    without hard negatives log(K + 1).

    Returns the loss, a scalar, and the similarities: in the dtype given, under autocast too.
    """
    with torch.autocast(device_type=query_BD.device.type, enabled=False):
        positive_B = (query_BD * key_BD).sum(dim=1)
        queue_BK = query_BD @ queue_KD.mT
        logits = torch.cat([positive_B[:, None], queue_BK], dim=1) / temperature
        target_B = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        loss, hard_BN, share_B = softmax_loss(
            logits, target_B, query_BD, hard, temperature=temperature, weights_A=weights_B
        )
    queue_BK = queue_BK.detach()
    return loss, Similarities(
        positive_B.detach(), queue_BK.mean(), queue_BK.amax(dim=1), hard_BN, share_B
    )


class KeyQueue(nn.Module):
    """A ring of the last K keys, the same on every rank; K is a multiple of the global batch."""

    keys_KD: Tensor

    def __init__(self, size: int, embedding_dim: int, *, generator: torch.Generator) -> None:
        """Starts with random unit vectors."""
        super().__init__()
        keys_KD = torch.randn(size, embedding_dim, generator=generator)
        self.register_buffer("keys_KD", nn.functional.normalize(keys_KD, dim=1))

    @torch.no_grad()
    def enqueue(self, keys_GD: Tensor, *, step: int) -> None:
        """Replace the oldest keys by those of a global step.

        Where they go follows from the step alone: nothing is read back from the device.
        """
        batch, size = len(keys_GD), len(self.keys_KD)
        assert size % batch == 0, (size, batch)
        start = (step * batch) % size
        keys_KD = self.keys_KD.clone()  # the backward pass needs the old keys
        keys_KD[start : start + batch] = keys_GD
        self.keys_KD = keys_KD


def key_momentum_at(config: MoCoConfig, moment: Moment) -> float:
    """The share of the key encoder that is kept at a step."""
    end = config.key_momentum if config.key_momentum_end is None else config.key_momentum_end
    return half_cosine(moment, config.key_momentum, end)


class MoCoV2(ContrastiveMethod):
    """Query encoder, momentum encoder, queue and loss; the query encoder's backbone is kept.

    Keys and hard negatives take no gradient. The seed also draws the queues' first keys.
    """

    config_type = MoCoConfig
    negative_sources, anchors = (KEY,), (QUERY,)
    config: MoCoConfig

    def __init__(
        self, config: MoCoConfig, backbone: Backbone, *, batch_size: int, seed: int
    ) -> None:
        super().__init__(config, seed=seed)
        self.query_encoder = ProjectedBackbone(backbone, config)
        self.key_encoder = momentum_copy(self.query_encoder)
        sizes = config.queue_size, config.embedding_dim
        generator = torch.Generator().manual_seed(seed)
        self.queue = KeyQueue(*sizes, generator=generator)
        self.object_queue = (
            KeyQueue(*sizes, generator=generator) if config.has_object_head else None
        )

    @property
    def encoder(self) -> ProjectedBackbone:  # type: ignore[override]
        """The query encoder."""
        return self.query_encoder

    @property
    def negative_encoder(self) -> nn.Module:
        """The key encoder."""
        return self.key_encoder

    def _embed(self, batch: Batch, queries: list[Tensor], local: list[Tensor]) -> Embeddings:
        """Queries and local crops in one pass each; the keys after the key encoder has moved."""
        key_BCHW, moment = batch.inputs.views[KEY], batch.moment
        query_BX, local_BX = (encode_together(batch.encode, images) for images in (queries, local))
        momentum = key_momentum_at(self.config, moment)
        update_momentum(self.key_encoder, self.query_encoder, momentum)
        order = self._order(len(key_BCHW), moment.step, PAIR_PASS)
        with torch.no_grad():
            return query_BX, local_BX, encode_shuffled(self.key_encoder, key_BCHW, order)

    def _num_negatives(self, rank_batch: int) -> int:
        return self.config.queue_size

    def _contrast(self, rows: HeadRows) -> Contrast:
        queue = self.object_queue if rows.of_object else self.queue
        assert queue is not None
        return info_nce(
            rows.query_BD,
            rows.key_GD.chunk(world_size())[rank()],
            queue.keys_KD if rows.queue_KD is None else rows.queue_KD,
            temperature=self.config.temperature,
            hard=rows.hard,
            weights_B=rows.weights_B,
        )

    def _past_keys(self) -> Tensor:
        return self.queue.keys_KD

    def _enqueue(self, plain_key_GD: Tensor, object_key_GD: Tensor, step: int) -> None:
        for queue, key_GD in ((self.queue, plain_key_GD), (self.object_queue, object_key_GD)):
            if queue is not None:
                queue.enqueue(key_GD, step=step)

    def average_statistics(self) -> None:
        """Average both encoders' batch-norm statistics over the ranks."""
        average_buffers(self.query_encoder)
        average_buffers(self.key_encoder)
