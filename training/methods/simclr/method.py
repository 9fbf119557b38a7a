"""SimCLR with the image's own hard negatives.

Chen et al., arXiv 2002.05709. arXiv 2309.12757 trains it with masks and hard negatives too but does
not publish that loss: `training.methods.losses.nt_xent` is this project's reading.

View 1 is the query (masked, by default), view 2 the key. The hard negatives of an anchor in view 1
are copies of view 2 with their foreground masked, and the other way round.

Shapes: B this rank's batch, G global batch, N hard negatives per image, D embedding.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from training.core.distributed import (
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
from training.methods.losses import NTXentLogits, nt_xent
from training.methods.simclr.settings import SimCLRConfig
from training.randomness.draws import KEY, QUERY
from training.views.inputs import EncoderInputs
from training.views.spec import EXCHANGED, ViewSettings, ViewSpec

VIEW_2_PASS, HARD_NEGATIVE_PASS = 0, 1
"""Shuffles: that of view 2, and the first of the hard negatives' own."""


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

    @classmethod
    def views(cls, config: SimCLRConfig, settings: ViewSettings) -> tuple[ViewSpec, ...]:
        """Query, key, hard negatives cut from both, and the exchanged query."""
        return declared(config, (KEY, QUERY), settings)

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
    def embedder(self) -> PlainEmbedder:
        """The encoder with its plain head."""
        return PlainEmbedder(self.encoder)

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
        config, batch = self.config, len(inputs.views[QUERY])
        shuffle = self._permutation(moment.step, VIEW_2_PASS, batch)
        images = [inputs.views[QUERY], shuffled_images(inputs.views[KEY], shuffle)]
        copies = [inputs.views[EXCHANGED]] if EXCHANGED in inputs.views else []
        more = further_queries(inputs.views)
        encoded = encode(torch.cat([*images, *copies, *more])).split(batch)
        view1_BX, shuffled_BX, *others_BX = encoded
        view2_GX = restored_rows(shuffled_BX, shuffle)
        copies_BX, more_BX = others_BX[: len(copies)], others_BX[len(copies) :]
        local = local_crops(inputs.views)
        local_BX = encode(torch.cat(local)).split(batch) if local else ()
        hard = self._hard_negatives(inputs, encode, moment.step)
        loss, similarities = self._contrast(
            both_heads(view1_BX, config)[0],
            both_heads(view2_GX, config)[0],
            inputs,
            moment,
            None if config.has_object_head else hard,
        )
        view2_GD = both_heads(view2_GX, config)[0]
        more_losses, local_losses = (
            [
                self._contrast(both_heads(rows_BX, config)[0], view2_GD, inputs, moment, None)[0]
                for rows_BX in rows
            ]
            for rows in (more_BX, local_BX)
        )
        loss = plain_loss(config, loss, more_losses, local_losses)
        metrics = {
            "positive_similarity": similarities.positive_A.mean(),
            "negative_similarity": similarities.negative,
            "instance_accuracy": (similarities.positive_A > similarities.best_negative_A)
            .float()
            .mean(),
            "embedding_spread": embedding_spread(both_heads(view2_GX, config)[0]),
        }
        object_loss = None
        if config.has_object_head:
            object_loss, similarities = self._contrast(
                both_heads(copies_BX[0] if copies_BX else view1_BX, config)[1],
                both_heads(view2_GX, config)[1],
                inputs,
                moment,
                hard,
            )
            metrics["object_loss"] = object_loss.detach()
            metrics["object_positive_similarity"] = similarities.positive_A.mean()
        metrics |= hard_metrics(
            similarities.hard_AN, similarities.hard_share_A, similarities.positive_A
        )
        return StepResult(
            mixed_loss(config, loss, object_loss), metrics, {"rho": config.rho_at(moment)}
        )

    def _contrast(
        self,
        view1_BD: Tensor,
        view2_GD: Tensor,
        inputs: EncoderInputs,
        moment: Moment,
        hard: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, NTXentLogits]:
        """NT-Xent of one head's rows: this rank's of view 1, all ranks' of view 2."""
        config, batch, weights_B = self.config, len(view1_BD), inputs.weights_B
        first, second = (None, None) if hard is None else hard
        return nt_xent(
            view1_BD,
            view2_GD.chunk(world_size())[rank()],
            temperature=config.temperature,
            all_view1_GD=gather_rows_with_gradient(view1_BD),
            all_view2_GD=view2_GD,
            first_row=rank() * batch,
            hard_negatives1_BND=first,
            hard_negatives2_BND=second,
            rho=config.rho_at(moment),
            log_mass=config.log_mass(2 * batch * world_size() - 2),
            weigh=weigh_for(config),
            weights_B=weights_B,
            all_weights_G=None if weights_B is None else gather_rows(weights_B),
        )

    def _permutation(self, step: int, branch: int, rank_batch: int) -> Tensor:
        return batch_permutation(
            rank_batch * world_size(), seed=self._seed, step=step, branch=branch
        )

    def _hard_negatives(
        self, inputs: EncoderInputs, encode: Callable[[Tensor], Tensor], step: int
    ) -> tuple[Tensor, Tensor] | None:
        """This rank's hard negatives of the anchors in view 1 and in view 2, [B, N, D] each.

        Those of an anchor are cut from the other view of its image.
        """
        images = [*negatives_of(KEY, inputs.views), *negatives_of(QUERY, inputs.views)]
        if not images:
            return None
        batch, rows = len(inputs.views[QUERY]), []
        with_gradient = self.config.negative_gradient
        with (
            nullcontext() if with_gradient else torch.no_grad(),
            running_statistics_kept(self.encoder),
        ):
            for branch, image_BCHW in enumerate(images, start=HARD_NEGATIVE_PASS):
                shuffle = self._permutation(step, branch, len(image_BCHW))
                encoder = encode if with_gradient else self.encoder
                try:
                    rows_GX = encode_shuffled(encoder, image_BCHW, shuffle)
                except ValueError as error:
                    if len(image_BCHW) == 1:
                        raise too_small_for_one(error) from error
                    raise
                _, rows_GD = both_heads(rows_GX, self.config)
                rows.append(one_for_each(rows_GD.chunk(world_size())[rank()], batch))
        first, second = torch.stack(rows, dim=1).chunk(2, dim=1)
        return first, second

    def average_statistics(self) -> None:
        """Averages the encoder's batch-norm statistics over the ranks."""
        average_buffers(self.encoder)
