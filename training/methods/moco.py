"""MoCo v2 with the image's own hard negatives.

Chen et al., arXiv 2003.04297; the hard negatives: arXiv 2309.12757, after Ge et al., NeurIPS 2021.

Shapes: B this rank's batch, N global batch, D embedding, K queue.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import InputError
from training.batch_norm import group_batch_norm
from training.distributed import (
    average_buffers,
    batch_permutation,
    encode_shuffled,
    rank,
    world_size,
)
from training.encoder import Backbone, projection_head
from training.inputs import EncoderInputs
from training.key_queue import KeyQueue, check_queue_size
from training.losses import info_nce
from training.momentum import momentum_copy, update_momentum

KEY_PASS, HARD_NEGATIVE_PASS = 0, 1


@dataclass(frozen=True, kw_only=True)
class MoCoConfig:
    """The method's settings; the defaults are the paper's.

    Attributes:
        embedding_dim: D.
        temperature: of the softmax over similarities, above 0.
        queue_size: K, a multiple of the global batch.
        key_momentum: share of the key encoder kept at a step, in [0, 1).
        hard_negatives: own hard negatives per image, 0 or 1.
        rho: weight of the similarity to the hard negative.
        rho_warmup_epochs: epochs over which rho rises linearly from 0.
        batch_norm_group: samples that share batch statistics, divides each rank's batch; None: a
            rank's whole batch (then the statistics depend on the number of ranks).
    """

    embedding_dim: int = 128
    temperature: float = 0.2
    queue_size: int = 65536
    key_momentum: float = 0.999
    hard_negatives: int = 1
    rho: float = 2.0
    rho_warmup_epochs: float = 0.0
    batch_norm_group: int | None = 32

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"moco.temperature {self.temperature} must be above 0")
        if not 0 <= self.key_momentum < 1:
            raise InputError(f"moco.key_momentum {self.key_momentum} must be in [0, 1)")
        if self.hard_negatives not in (0, 1):
            raise InputError(f"moco.hard_negatives {self.hard_negatives} must be 0 or 1")
        if self.rho < 0 or self.rho_warmup_epochs < 0:
            raise InputError("moco.rho and moco.rho_warmup_epochs must not be negative")
        if self.embedding_dim < 1:
            raise InputError(f"moco.embedding_dim {self.embedding_dim} must be 1 or more")

    def check_batch(self, batch_size: int, num_ranks: int) -> None:
        """Raises ``InputError`` unless the global batch fits queue, ranks and groups."""
        check_queue_size(self.queue_size, batch_size)
        rank_batch, group = batch_size // num_ranks, self.batch_norm_group
        if rank_batch < 2:
            raise InputError(
                f"{num_ranks} ranks leave {rank_batch} image each of a global batch of "
                f"{batch_size}: batch norm needs 2, use at most {batch_size // 2} ranks"
            )
        if group is not None and (group < 2 or rank_batch % group):
            raise InputError(
                f"moco.batch_norm_group {group} does not divide the {rank_batch} images of a rank "
                f"(global batch {batch_size} over {num_ranks} ranks): "
                f"try {math.gcd(max(group, 1), rank_batch)} or fewer ranks"
            )


class StepResult(NamedTuple):
    """The loss of a step, mean over this rank's batch, and scalars to log (on the device)."""

    loss: Tensor
    metrics: dict[str, Tensor]


class ProjectedBackbone(nn.Module):
    """Backbone and projection head: images to unit embeddings."""

    def __init__(self, backbone: Backbone, embedding_dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = projection_head(backbone.feature_dim, backbone.feature_dim, embedding_dim)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Returns unit rows [B, D], in float32 where autocast made them narrower."""
        embeddings_BD: Tensor = self.head(self.backbone(images_BCHW))
        wide = torch.promote_types(embeddings_BD.dtype, torch.float32)
        return functional.normalize(embeddings_BD.to(wide), dim=1)


class MoCoV2(nn.Module):
    """Query encoder, momentum encoder, queue and loss.

    Args:
        config: settings.
        backbone: the network to pretrain.
        batch_size: global batch.
        seed: of the queue's first keys and the shuffles.
    """

    def __init__(
        self, config: MoCoConfig, backbone: Backbone, *, batch_size: int, seed: int
    ) -> None:
        super().__init__()
        self.config = config
        self.query_encoder = ProjectedBackbone(backbone, config.embedding_dim)
        if config.batch_norm_group is not None:
            group_batch_norm(self.query_encoder, config.batch_norm_group)
        self.key_encoder = momentum_copy(self.query_encoder)
        self.queue = KeyQueue(
            config.queue_size,
            config.embedding_dim,
            batch_size=batch_size,
            generator=torch.Generator().manual_seed(seed),
        )
        self._seed = seed

    @property
    def backbone(self) -> Backbone:
        """The backbone that is kept: the query encoder's."""
        return self.query_encoder.backbone

    @property
    def trained(self) -> nn.Module:
        """The part that takes gradients (and is wrapped for data parallelism)."""
        return self.query_encoder

    def step(
        self,
        inputs: EncoderInputs,
        *,
        encode_query: Callable[[Tensor], Tensor],
        step: int,
        rho: float,
    ) -> StepResult:
        """One step's loss; updates the key encoder before and the queue after it.

        Keys and hard negatives go through the key encoder apart, each with its own shuffle: one
        concatenated pass would change the batch statistics.

        Args:
            inputs: views on the device.
            encode_query: the query encoder as wrapped for data parallelism.
            step: global step.
            rho: weight of the similarity to the hard negative at this step.
        """
        query_BD = encode_query(inputs.query_BCHW)
        update_momentum(self.key_encoder, self.query_encoder, self.config.key_momentum)
        key_ND = self._encode_keys(inputs.key_BCHW, step, KEY_PASS)
        hard_B1D = None
        if inputs.hard_negative_BCHW is not None:
            hard_ND = self._encode_keys(inputs.hard_negative_BCHW, step, HARD_NEGATIVE_PASS)
            hard_B1D = hard_ND.chunk(world_size())[rank()].unsqueeze(1)
        loss, similarities = info_nce(
            query_BD,
            key_ND.chunk(world_size())[rank()],
            # The queue is overwritten below, before the backward pass needs these keys.
            self.queue.keys.clone(),
            temperature=self.config.temperature,
            hard_negatives_BND=hard_B1D,
            rho=rho,
        )
        self.queue.enqueue(key_ND, step=step)
        with torch.no_grad():
            best_B = similarities.queue_BK.amax(dim=1)
            metrics = {
                "positive_similarity": similarities.positive_B.mean(),
                "queue_similarity": similarities.queue_BK.mean(),
                "instance_accuracy": (similarities.positive_B > best_B).float().mean(),
                # 1 for keys all over the sphere, 0 for a collapse to one point.
                "embedding_spread": key_ND.std(dim=0, correction=0).norm(),
            }
            if similarities.hard_BN is not None:
                metrics["hard_negative_similarity"] = similarities.hard_BN.mean()
        return StepResult(loss, metrics)

    def _encode_keys(self, images_BCHW: Tensor, step: int, branch: int) -> Tensor:
        permutation = batch_permutation(
            len(images_BCHW) * world_size(), seed=self._seed, step=step, branch=branch
        )
        return encode_shuffled(self.key_encoder, images_BCHW, permutation)

    def average_statistics(self) -> None:
        """Averages the encoders' batch-norm statistics over the ranks (before a checkpoint)."""
        average_buffers(self.query_encoder)
        average_buffers(self.key_encoder)
