"""SimCLR with the image's own hard negatives.

Chen et al., arXiv 2002.05709. arXiv 2309.12757 trains it with masks and hard negatives too but does
not publish that loss: `training.methods.losses.nt_xent` is this project's reading.

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
    ContrastiveMethod,
    Embeddings,
    log_mass,
    weigh_for,
)
from training.methods.interface import ProjectedBackbone
from training.methods.losses import Similarities, nt_xent
from training.methods.simclr.settings import SimCLRConfig
from training.randomness.draws import KEY, QUERY


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
