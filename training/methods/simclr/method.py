"""SimCLR with the image's own hard negatives.

Chen et al., arXiv 2002.05709. arXiv 2309.12757 trains it with masks and hard negatives too but does
not publish that loss: `nt_xent` is this project's reading.

View 1 is the query (masked, by default), view 2 the key. The hard negatives of an anchor in view 1
are copies of view 2 with their foreground masked, and the other way round.

Shapes: B this rank's batch, G global batch, N hard negatives per image, D embedding.
"""

import torch
from torch import Tensor

from training.core.distributed import (
    gather_rows,
    gather_rows_with_gradient,
    rank,
    restored_rows,
    shuffled_images,
    world_size,
)
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
from training.methods.interface import ProjectedBackbone, encode_together
from training.methods.simclr.settings import SimCLRConfig
from training.randomness.draws import KEY, QUERY


def nt_xent(
    view1_GD: Tensor,
    view2_GD: Tensor,
    *,
    temperature: float,
    own: slice = slice(None),
    hard: HardNegatives | None = None,
    weights_G: Tensor | None = None,
) -> tuple[Tensor, Similarities]:
    """NT-Xent of unit rows over both views, with each anchor's own hard negatives.

    An anchor's positive is the other view of its image, its negatives are both views of all other
    images (Chen et al., SimCLR, arXiv 2002.05709): cross entropy over the 2 G - 1 similarities
    divided by the temperature. Its hard negatives add exp(rho * z.z- / temperature) each to the
    denominator. The masked variant of SimCLR is named in arXiv 2309.12757 without its loss: where
    the hard negatives enter is this project's reading.

    Identical embeddings give log(2 G - 1 + N * exp((rho - 1) / temperature)), uniform similarities
    without hard negatives log(2 G - 1).

    Args:
        view1_GD: the global batch.
        view2_GD: the same.
        temperature: divides every logit, > 0.
        own: the B rows of this rank, whose two views are the anchors.
        hard: the hard negatives of the anchors in view 1, then of those in view 2.
        weights_G: factors of both losses of each image before the mean; None: 1. An image of weight
            0 is nobody's negative.

    Returns:
        The loss, mean over the anchors, and the similarities, of view 1 first: in the dtype given,
        under autocast too.
    """
    with torch.autocast(device_type=view1_GD.device.type, enabled=False):
        bank = torch.cat((view1_GD, view2_GD))
        anchors_AD = torch.cat((view1_GD[own], view2_GD[own]))
        similarity = anchors_AD @ bank.mT
        column = torch.arange(len(bank), device=bank.device)
        row_B, other_B = column[: len(view1_GD)][own], column[len(view1_GD) :][own]
        own_A, partner_A = torch.cat((row_B, other_B)), torch.cat((other_B, row_B))
        is_partner, no_term = column == partner_A[:, None], column == own_A[:, None]
        if weights_G is not None:
            no_term = no_term | ((weights_G == 0).repeat(2) & ~is_partner)
        logits = (similarity / temperature).masked_fill(no_term, -torch.inf)
        loss, hard_AN, share_A = softmax_loss(
            logits,
            partner_A,
            anchors_AD,
            hard,
            temperature=temperature,
            weights_A=None if weights_G is None else weights_G[own].repeat(2),
        )
    similarity, no_negative = similarity.detach(), no_term | is_partner
    negatives = similarity.masked_fill(no_negative, 0.0)
    return loss, Similarities(
        similarity.gather(1, partner_A[:, None]).squeeze(1),
        (negatives.sum(dim=1) / (~no_negative).sum(dim=1).clamp(min=1)).mean(),
        similarity.masked_fill(no_negative, -torch.inf).amax(dim=1),
        hard_AN,
        share_A,
    )


class SimCLR(ContrastiveMethod):
    """One encoder for both views; its backbone is kept.

    Gradients flow through the embeddings of every rank, so that any number of ranks has the
    gradient of the whole global batch's loss.
    """

    config_type = SimCLRConfig
    negative_sources, anchors = (KEY, QUERY), (QUERY, KEY)
    config: SimCLRConfig

    def __init__(
        self, config: SimCLRConfig, backbone: Backbone, *, batch_size: int, seed: int
    ) -> None:
        super().__init__(config, seed=seed)
        self.encoder = ProjectedBackbone(backbone, config)

    @property
    def negative_gradient(self) -> bool:
        """As the settings say."""
        return self.config.negative_gradient

    def _embed(self, batch: Batch, queries: list[Tensor], local: list[Tensor]) -> Embeddings:
        """Both views in one pass, view 2 shuffled over ranks and batch-norm groups.

        So the two views of an image do not share their batch statistics.
        """
        key_BCHW = batch.inputs.views[KEY]
        order = self._order(len(key_BCHW), batch.moment.step, PAIR_PASS)
        images = [queries[0], shuffled_images(key_BCHW, order), *queries[1:]]
        query_BX, shuffled_BX, *others_BX = encode_together(batch.encode, images)
        local_BX = encode_together(batch.encode, local)
        return (query_BX, *others_BX), local_BX, restored_rows(shuffled_BX, order)

    def _num_negatives(self, rank_batch: int) -> int:
        return 2 * rank_batch * world_size() - 2

    def _contrast(self, rows: HeadRows) -> Contrast:
        first, size = rank() * len(rows.query_BD), len(rows.query_BD)
        return nt_xent(
            gather_rows_with_gradient(rows.query_BD),
            rows.key_GD,
            temperature=self.config.temperature,
            own=slice(first, first + size),
            hard=rows.hard,
            weights_G=None if rows.weights_B is None else gather_rows(rows.weights_B),
        )
