"""MoCo v2 with the image's own hard negatives.

Chen et al., arXiv 2003.04297; the hard negatives: arXiv 2309.12757, after Ge et al., NeurIPS 2021.

Shapes: B this rank's batch, G global batch, N hard negatives per image, D embedding, K queue.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.core.distributed import average_buffers, rank, world_size
from training.core.schedules import Moment, half_cosine
from training.encoders.encoder import Backbone
from training.methods.contrastive import (
    PAIR_PASS,
    Batch,
    ContrastiveMethod,
    Embeddings,
    Similarities,
    Weigh,
    hard_logits,
    hard_share,
    log_mass,
    mean_loss,
    weigh_for,
)
from training.methods.interface import ProjectedBackbone, momentum_copy, update_momentum
from training.methods.moco.settings import MoCoConfig
from training.randomness.draws import KEY


def info_nce(
    query_BD: Tensor,
    key_BD: Tensor,
    queue_KD: Tensor,
    *,
    temperature: float,
    hard_negatives_BND: Tensor | None = None,
    rho: float | Tensor = 0.0,
    log_mass: float = 0.0,
    weigh: Weigh | None = None,
    weights_B: Tensor | None = None,
) -> tuple[Tensor, Similarities]:
    """MoCo's InfoNCE with each query's own hard negatives in the denominator.

    logits = [q.k+, q.queue, rho * q.k-] / temperature, cross entropy with target 0, mean over the
    batch (arXiv 2309.12757, section 3.3; the weighted term is that of Ge et al., "Robust
    Contrastive Learning Using Negative Samples with Diminished Semantics", NeurIPS 2021).

    rho weighs the similarity, inside the exponential. At rho 0 a hard negative still adds exp(0) to
    the denominator: to have none, pass none. Identical embeddings give
    log(K + 1 + N * exp((rho - 1) / temperature)), uniform similarities without hard negatives
    log(K + 1).

    Args:
        query_BD: unit rows; the gradient flows through them.
        key_BD: unit rows, the positive of each query.
        queue_KD: unit rows, the negatives that all queries share.
        temperature: divides every logit, > 0.
        hard_negatives_BND: unit rows, the N hard negatives of each query.
        rho: weight of the hard negatives; a scalar tensor may change without a recompilation.
        log_mass: added to the hard negatives' logits.
        weigh: weights of the hard negatives' terms; None: 1.
        weights_B: factors of the queries' losses before the mean; None: 1.

    Returns:
        The loss, a scalar, and the similarities. Computed in the dtype given, under autocast too.
    """
    with torch.autocast(device_type=query_BD.device.type, enabled=False):
        positive_B = (query_BD * key_BD).sum(dim=1)
        queue_BK = query_BD @ queue_KD.mT
        logits = torch.cat([positive_B[:, None], queue_BK], dim=1) / temperature
        hard_BN = share_B = None
        if hard_negatives_BND is not None:
            hard_BN, hard_logits_BN = hard_logits(
                query_BD, hard_negatives_BND, rho / temperature, weigh, log_mass
            )
            logits = torch.cat([logits, hard_logits_BN], dim=1)
            share_B = hard_share(hard_logits_BN, logits)
        target_B = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        loss = mean_loss(functional.cross_entropy(logits, target_B, reduction="none"), weights_B)
    queue_BK = queue_BK.detach()
    return loss, Similarities(
        positive_B.detach(), queue_BK.mean(), queue_BK.amax(dim=1), hard_BN, share_B
    )


class KeyQueue(nn.Module):
    """A ring of the last K keys, the same on every rank. Starts with random unit vectors.

    Args:
        size: K, number of keys; a multiple of the global batch.
        embedding_dim: D.
        batch_size: keys enqueued at a time (the global batch).
        generator: draws the first keys.
    """

    keys_KD: Tensor

    def __init__(
        self, size: int, embedding_dim: int, *, batch_size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        assert size % batch_size == 0, (size, batch_size)
        keys_KD = torch.randn(size, embedding_dim, generator=generator)
        self.register_buffer("keys_KD", nn.functional.normalize(keys_KD, dim=1))
        self.batch_size = batch_size

    @torch.no_grad()
    def enqueue(self, keys_BD: Tensor, *, step: int) -> None:
        """Replace the oldest keys by those of global step ``step``.

        Where they go follows from the step alone: nothing is read back from the device.
        """
        assert keys_BD.shape[0] == self.batch_size, (keys_BD.shape, self.batch_size)
        start = (step * self.batch_size) % len(self.keys_KD)
        keys_KD = self.keys_KD.clone()  # the backward pass needs the old keys
        keys_KD[start : start + self.batch_size] = keys_BD
        self.keys_KD = keys_KD


class MoCoV2(ContrastiveMethod):
    """Query encoder, momentum encoder, queue and loss; the query encoder's backbone is kept.

    Keys and hard negatives take no gradient. The seed also draws the queues' first keys.
    """

    config_type = MoCoConfig
    negative_sources = (KEY,)
    config: MoCoConfig

    def __init__(
        self, config: MoCoConfig, backbone: Backbone, *, batch_size: int, seed: int
    ) -> None:
        super().__init__(config, seed=seed)
        self.query_encoder = ProjectedBackbone(backbone, config)
        self.key_encoder = momentum_copy(self.query_encoder)
        generator = torch.Generator().manual_seed(seed)

        def new_queue() -> KeyQueue:
            sizes = config.queue_size, config.embedding_dim
            return KeyQueue(*sizes, batch_size=batch_size, generator=generator)

        self.queue = new_queue()
        self.object_queue = new_queue() if config.has_object_head else None

    @property
    def encoder(self) -> ProjectedBackbone:  # type: ignore[override]
        """The query encoder."""
        return self.query_encoder

    def _embed(self, batch: Batch, images: list[Tensor], local: list[Tensor]) -> Embeddings:
        """Queries and local crops in one pass each; the keys after the key encoder has moved."""
        encode, key_BCHW = batch.encode, batch.inputs.views[KEY]
        rows_BX = encode(torch.cat(images)).split(len(key_BCHW))
        local_BX = encode(torch.cat(local)).split(len(key_BCHW)) if local else ()
        momentum = key_momentum_at(self.config, batch.moment)
        update_momentum(self.key_encoder, self.query_encoder, momentum)
        with torch.no_grad():
            key_GX = self._encode_shuffled(self.key_encoder, key_BCHW, batch.moment.step, PAIR_PASS)
        return Embeddings(rows_BX, local_BX, key_GX)

    @torch.no_grad()
    def _hard_negatives(self, batch: Batch) -> tuple[Tensor, ...]:
        """Apart from the keys: one concatenated pass would change the batch statistics."""
        rows_BD = self._encode_hard_negatives(batch, self.key_encoder, self.key_encoder)
        return (torch.stack(rows_BD, dim=1),) if rows_BD else ()

    def _contrast(
        self,
        batch: Batch,
        query_BD: Tensor,
        key_GD: Tensor,
        hard_BND: tuple[Tensor, ...],
        *,
        of_object: bool,
    ) -> tuple[Tensor, Similarities]:
        queue = self.object_queue if of_object else self.queue
        assert queue is not None
        return info_nce(
            query_BD,
            key_GD.chunk(world_size())[rank()],
            queue.keys_KD,
            temperature=self.config.temperature,
            hard_negatives_BND=hard_BND[0] if hard_BND else None,
            rho=batch.rho,
            log_mass=log_mass(self.config, self.config.queue_size),
            weigh=weigh_for(self.config),
            weights_B=batch.inputs.weights_B,
        )

    def _enqueue(self, plain_key_GD: Tensor, object_key_GD: Tensor, step: int) -> None:
        for queue, key_GD in ((self.queue, plain_key_GD), (self.object_queue, object_key_GD)):
            if queue is not None:
                queue.enqueue(key_GD, step=step)

    def average_statistics(self) -> None:
        """Average both encoders' batch-norm statistics over the ranks."""
        average_buffers(self.query_encoder)
        average_buffers(self.key_encoder)


def key_momentum_at(config: MoCoConfig, moment: Moment) -> float:
    """The share of the key encoder that is kept at a step."""
    if config.key_momentum_end is None:
        return config.key_momentum
    return half_cosine(moment, config.key_momentum, config.key_momentum_end)
