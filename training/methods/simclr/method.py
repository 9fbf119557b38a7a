"""SimCLR with the image's own hard negatives.

Chen et al., arXiv 2002.05709. arXiv 2309.12757 trains it with masks and hard negatives too but does
not publish that loss: `nt_xent` is this project's reading.

View 1 is the query (masked, by default), view 2 the key. The hard negatives of an anchor in view 1
are copies of view 2 with their foreground masked, and the other way round.

Shapes: B this rank's batch, G global batch, N hard negatives per image, D embedding.
"""

import torch
from torch import Tensor
from torch.nn import functional

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
from training.methods.interface import ProjectedBackbone
from training.methods.simclr.settings import SimCLRConfig
from training.randomness.draws import KEY, QUERY


def nt_xent(
    view1_BD: Tensor,
    view2_BD: Tensor,
    *,
    temperature: float,
    all_view1_GD: Tensor | None = None,
    all_view2_GD: Tensor | None = None,
    first_row: int = 0,
    hard_negatives_BND: tuple[Tensor, Tensor] | None = None,
    rho: float | Tensor = 0.0,
    log_mass: float = 0.0,
    weigh: Weigh | None = None,
    weights_B: Tensor | None = None,
    all_weights_G: Tensor | None = None,
) -> tuple[Tensor, Similarities]:
    """NT-Xent over both views, with each anchor's own hard negatives in its denominator.

    An anchor's positive is the other view of its image, its negatives are both views of all other
    images (Chen et al., SimCLR, arXiv 2002.05709): cross entropy over the 2 G - 1 similarities
    divided by the temperature. Its hard negatives add exp(rho * z.z- / temperature) each to the
    denominator. The masked variant of SimCLR is named in arXiv 2309.12757 without its loss: where
    the hard negatives enter is this project's reading.

    Identical embeddings give log(2 G - 1 + N * exp((rho - 1) / temperature)), uniform similarities
    without hard negatives log(2 G - 1).

    Args:
        view1_BD: unit rows, anchors of this rank.
        view2_BD: unit rows, anchors of this rank.
        temperature: divides every logit, > 0.
        all_view1_GD: unit rows of the global batch, this rank's among them; None: only this rank's.
        all_view2_GD: the same of view 2.
        first_row: index of this rank's first row in the global batch.
        hard_negatives_BND: unit rows, the N hard negatives of each anchor in view 1 and in view 2.
        rho: weight of the hard negatives; it, `log_mass` and `weigh` are as in `info_nce`.
        log_mass: added to the hard negatives' logits.
        weigh: weights of the hard negatives' terms.
        weights_B: factors of both losses of each image before the mean; None: 1.
        all_weights_G: those of the global batch; None: only this rank's. An image of weight 0 is
            nobody's negative.

    Returns:
        The loss, mean over this rank's 2 B anchors, and the similarities, of view 1 first. Computed
        in the dtype given, under autocast too.
    """
    with torch.autocast(device_type=view1_BD.device.type, enabled=False):
        anchors_AD = torch.cat((view1_BD, view2_BD))
        bank = torch.cat(
            (
                view1_BD if all_view1_GD is None else all_view1_GD,
                view2_BD if all_view2_GD is None else all_view2_GD,
            )
        )
        similarity = anchors_AD @ bank.mT
        row_B = torch.arange(len(view1_BD), device=anchors_AD.device) + first_row
        other_B = row_B + len(bank) // 2
        own_A, partner_A = torch.cat((row_B, other_B)), torch.cat((other_B, row_B))
        column = torch.arange(len(bank), device=anchors_AD.device)
        is_partner, no_term = column == partner_A[:, None], column == own_A[:, None]
        if weights_B is not None:
            weights_G = weights_B if all_weights_G is None else all_weights_G
            no_term = no_term | ((weights_G == 0).repeat(2) & ~is_partner)
        logits = (similarity / temperature).masked_fill(no_term, -torch.inf)
        hard_AN = share_A = None
        if hard_negatives_BND is not None:
            hard_AN, hard_logits_AN = hard_logits(
                anchors_AD, torch.cat(hard_negatives_BND), rho / temperature, weigh, log_mass
            )
            logits = torch.cat((logits, hard_logits_AN), dim=1)
            share_A = hard_share(hard_logits_AN, logits)
        loss_A = functional.cross_entropy(logits, partner_A, reduction="none")
        loss = mean_loss(loss_A, None if weights_B is None else weights_B.repeat(2))
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
    negative_sources = (KEY, QUERY)
    config: SimCLRConfig

    def __init__(
        self, config: SimCLRConfig, backbone: Backbone, *, batch_size: int, seed: int
    ) -> None:
        super().__init__(config, seed=seed)
        self.encoder = ProjectedBackbone(backbone, config)

    def _embed(self, batch: Batch, images: list[Tensor], local: list[Tensor]) -> Embeddings:
        """Both views in one pass, view 2 shuffled over ranks and batch-norm groups.

        So the two views of an image do not share their batch statistics.
        """
        encode, key_BCHW = batch.encode, batch.inputs.views[KEY]
        order = self._order(len(key_BCHW), batch.moment.step, PAIR_PASS)
        query_BCHW, *others = images
        together = torch.cat([query_BCHW, shuffled_images(key_BCHW, order), *others])
        query_BX, shuffled_BX, *others_BX = encode(together).split(len(key_BCHW))
        local_BX = encode(torch.cat(local)).split(len(key_BCHW)) if local else ()
        return Embeddings((query_BX, *others_BX), local_BX, restored_rows(shuffled_BX, order))

    def _hard_negatives(self, batch: Batch) -> tuple[Tensor, ...]:
        """Those of the anchors in view 1 and in view 2, each cut from the other view."""
        gradient = self.config.negative_gradient
        with torch.set_grad_enabled(gradient):
            encoder = batch.encode if gradient else self.encoder
            rows_BD = self._encode_hard_negatives(batch, encoder, self.encoder)
            return torch.stack(rows_BD, dim=1).chunk(2, dim=1) if rows_BD else ()

    def _contrast(
        self,
        batch: Batch,
        query_BD: Tensor,
        key_GD: Tensor,
        hard_BND: tuple[Tensor, ...],
        *,
        of_object: bool,
    ) -> tuple[Tensor, Similarities]:
        size, weights_B = len(query_BD), batch.inputs.weights_B
        return nt_xent(
            query_BD,
            key_GD.chunk(world_size())[rank()],
            temperature=self.config.temperature,
            all_view1_GD=gather_rows_with_gradient(query_BD),
            all_view2_GD=key_GD,
            first_row=rank() * size,
            hard_negatives_BND=(hard_BND[0], hard_BND[1]) if hard_BND else None,
            rho=batch.rho,
            log_mass=log_mass(self.config, 2 * size * world_size() - 2),
            weigh=weigh_for(self.config),
            weights_B=weights_B,
            all_weights_G=None if weights_B is None else gather_rows(weights_B),
        )
