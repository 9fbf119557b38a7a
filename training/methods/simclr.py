"""SimCLR with the image's own hard negatives.

Chen et al., arXiv 2002.05709. arXiv 2309.12757 trains it with masks and hard negatives too but does
not publish that loss: `training.methods.losses.nt_xent` is this project's reading.

View 1 is the query (masked, by default), view 2 the key. The hard negatives of an anchor in view 1
are copies of view 2 with their foreground masked, and the other way round.

Shapes: B this rank's batch, G global batch, N hard negatives per image, D embedding.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.data.draws import View
from training.distributed import (
    average_buffers,
    batch_permutation,
    encode_shuffled,
    gather_rows,
    gather_rows_with_gradient,
    rank,
    restored_rows,
    shuffled_images,
    world_size,
)
from training.encoders.batch_norm import running_statistics_kept
from training.encoders.encoder import Backbone
from training.inputs import EncoderInputs
from training.methods.hard_negatives import (
    HardNegativeConfig,
    embedding_spread,
    one_for_each,
    too_small_for_one,
)
from training.methods.interface import Method, Moment, ProjectedBackbone, StepResult
from training.methods.losses import nt_xent

VIEW_2_PASS, HARD_NEGATIVE_PASS = 0, 1
"""Shuffles: that of view 2, and the first of the hard negatives' own."""


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(HardNegativeConfig):
    """The method's settings.

    Attributes:
        negative_gradient: let gradients flow through the hard negatives too: they are then pushed
            away from the anchors, not only the anchors from them. Off by default, as in MoCo, whose
            negatives come from the momentum encoder.
    """

    name: ClassVar[str] = "simclr"
    sources: ClassVar[tuple[View, ...]] = (View.KEY, View.QUERY)

    negative_gradient: bool = False


class SimCLR(Method):
    """One encoder for both views; its backbone is kept.

    Gradients flow through the embeddings of every rank, so that any number of ranks has the
    gradient of the whole global batch's loss.

    Args:
        config: settings.
        backbone: the network to pretrain.
        batch_size: global batch.
        seed: of the shuffles.
    """

    config_type = SimCLRConfig

    def __init__(
        self, config: SimCLRConfig, backbone: Backbone, *, batch_size: int, seed: int
    ) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.encoder = ProjectedBackbone(backbone, config)
        self._seed = seed

    @property
    def backbone(self) -> Backbone:
        """The encoder's."""
        return self.encoder.backbone

    @property
    def embedder(self) -> ProjectedBackbone:
        """The encoder."""
        return self.encoder

    @property
    def trained(self) -> nn.Module:
        """The encoder."""
        return self.encoder

    def step(
        self, inputs: EncoderInputs, *, encode: Callable[[Tensor], Tensor], moment: Moment
    ) -> StepResult:
        """One step's loss.

        Both views go through the encoder in one pass, view 2 shuffled over ranks and batch-norm
        groups, so that the two views of an image do not share their batch statistics. Hard
        negatives go apart and leave the running statistics alone: at inference nothing is masked.
        """
        rho, batch = self.config.rho_at(moment), len(inputs.query_BCHW)
        shuffle = self._permutation(moment.step, VIEW_2_PASS, batch)
        view2_BCHW = shuffled_images(inputs.key_BCHW, shuffle)
        view1_BD, shuffled_BD = encode(torch.cat((inputs.query_BCHW, view2_BCHW))).split(batch)
        view1_GD = gather_rows_with_gradient(view1_BD)
        view2_GD = restored_rows(shuffled_BD, shuffle)
        loss, similarities = nt_xent(
            view1_BD,
            view2_GD.chunk(world_size())[rank()],
            temperature=self.config.temperature,
            all_view1_GD=view1_GD,
            all_view2_GD=view2_GD,
            first_row=rank() * batch,
            hard_negatives1_BND=self._hard_negatives(inputs, View.KEY, encode, moment.step),
            hard_negatives2_BND=self._hard_negatives(inputs, View.QUERY, encode, moment.step),
            rho=rho,
            weigh=self.config.weigh(),
            weights_B=inputs.weights_B,
            all_weights_G=None if inputs.weights_B is None else gather_rows(inputs.weights_B),
        )
        right_A = similarities.positive_A > similarities.best_negative_A
        metrics = {
            "positive_similarity": similarities.positive_A.mean(),
            "negative_similarity": similarities.negative,
            "instance_accuracy": right_A.float().mean(),
            "embedding_spread": embedding_spread(view2_GD),
        }
        if similarities.hard_AN is not None:
            metrics["hard_negative_similarity"] = similarities.hard_AN.detach().mean()
        return StepResult(loss, metrics, {"rho": rho})

    def _permutation(self, step: int, branch: int, rank_batch: int) -> Tensor:
        return batch_permutation(
            rank_batch * world_size(), seed=self._seed, step=step, branch=branch
        )

    def _hard_negatives(
        self, inputs: EncoderInputs, source: View, encode: Callable[[Tensor], Tensor], step: int
    ) -> Tensor | None:
        """The hard negatives that are cut from ``source``: those of the other view, [B, N, D]."""
        images: Sequence[Tensor] = inputs.negatives.get(source, ())
        if not images:
            return None
        first_pass = HARD_NEGATIVE_PASS + (len(images) if source == View.QUERY else 0)
        batch, rows = len(inputs.query_BCHW), []
        with_gradient = self.config.negative_gradient
        with (
            nullcontext() if with_gradient else torch.no_grad(),
            running_statistics_kept(self.encoder),
        ):
            for index, image_BCHW in enumerate(images):
                shuffle = self._permutation(step, first_pass + index, len(image_BCHW))
                encoder = encode if with_gradient else self.encoder
                try:
                    rows_GD = encode_shuffled(encoder, image_BCHW, shuffle)
                except ValueError as error:
                    if len(image_BCHW) == 1:
                        raise too_small_for_one(error) from error
                    raise
                rows.append(one_for_each(rows_GD.chunk(world_size())[rank()], batch))
        return torch.stack(rows, dim=1)

    def average_statistics(self) -> None:
        """Averages the encoder's batch-norm statistics over the ranks."""
        average_buffers(self.encoder)
