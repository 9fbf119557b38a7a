"""MoCo v2 with the image's own hard negatives.

Chen et al., arXiv 2003.04297; the hard negatives: arXiv 2309.12757, after Ge et al., NeurIPS 2021.

Shapes: B this rank's batch, G global batch, N hard negatives per image, D embedding, K queue.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.data.draws import View
from training.distributed import (
    average_buffers,
    batch_permutation,
    encode_shuffled,
    rank,
    world_size,
)
from training.encoders.encoder import Backbone
from training.inputs import EncoderInputs
from training.methods.hard_negatives import (
    HardNegativeConfig,
    embedding_spread,
    one_for_each,
    too_small_for_one,
)
from training.methods.interface import Method, Moment, ProjectedBackbone, StepResult
from training.methods.key_queue import KeyQueue, check_queue_size
from training.methods.losses import info_nce
from training.methods.momentum import momentum_copy, update_momentum

KEY_PASS, HARD_NEGATIVE_PASS = 0, 1
"""Shuffles of the key encoder's passes; the second hard negative's pass is 2, and so on."""


@dataclass(frozen=True, kw_only=True)
class MoCoConfig(HardNegativeConfig):
    """The method's settings; the defaults are the paper's.

    Attributes:
        queue_size: K, keys in the queue, 1 or more: a multiple of --batch-size.
        key_momentum: share of the key encoder kept at a step, in [0, 1).
    """

    name: ClassVar[str] = "moco_v2"
    sources: ClassVar[tuple[View, ...]] = (View.KEY,)

    queue_size: int = 65536
    key_momentum: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(0 <= self.key_momentum < 1, "key_momentum", "must be in [0, 1)")
        self.check(self.queue_size >= 1, "queue_size", "must be 1 or more")

    def check_batch(self, batch_size: int, num_ranks: int) -> None:
        """Raises ``InputError`` unless the global batch fits queue, ranks and groups."""
        check_queue_size(self.queue_size, batch_size)
        super().check_batch(batch_size, num_ranks)


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
        self.queue = KeyQueue(
            config.queue_size,
            config.embedding_dim,
            batch_size=batch_size,
            generator=torch.Generator().manual_seed(seed),
        )
        self._seed = seed

    @property
    def backbone(self) -> Backbone:
        """The query encoder's."""
        return self.query_encoder.backbone

    @property
    def embedder(self) -> ProjectedBackbone:
        """The query encoder."""
        return self.query_encoder

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
        rho = self.config.rho_at(moment)
        query_BD = encode(inputs.query_BCHW)
        update_momentum(self.key_encoder, self.query_encoder, self.config.key_momentum)
        key_GD = self._encode_keys(inputs.key_BCHW, moment.step, KEY_PASS)
        loss, similarities = info_nce(
            query_BD,
            key_GD.chunk(world_size())[rank()],
            # The queue is overwritten below, before the backward pass needs these keys.
            self.queue.keys.clone(),
            temperature=self.config.temperature,
            hard_negatives_BND=self._hard_negatives(
                inputs.negatives.get(View.KEY, ()), moment.step, len(query_BD)
            ),
            rho=rho,
            weigh=self.config.weigh(),
            weights_B=inputs.weights_B,
        )
        self.queue.enqueue(key_GD, step=moment.step)
        with torch.no_grad():
            best_B = similarities.queue_BK.amax(dim=1)
            metrics = {
                "positive_similarity": similarities.positive_B.mean(),
                "negative_similarity": similarities.queue_BK.mean(),
                "instance_accuracy": (similarities.positive_B > best_B).float().mean(),
                "embedding_spread": embedding_spread(key_GD),
            }
            if similarities.hard_BN is not None:
                metrics["hard_negative_similarity"] = similarities.hard_BN.mean()
        return StepResult(loss, metrics, {"rho": rho})

    def _hard_negatives(self, images: Sequence[Tensor], step: int, batch: int) -> Tensor | None:
        """This rank's hard negatives, [B, N, D]."""
        if not images:
            return None
        encoded = [
            self._encode_keys(image_BCHW, step, HARD_NEGATIVE_PASS + index)
            for index, image_BCHW in enumerate(images)
        ]
        mine = [rows_GD.chunk(world_size())[rank()] for rows_GD in encoded]
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
