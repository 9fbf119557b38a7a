"""BYOL: predict a momentum encoder's embedding of the other view (Grill et al., arXiv 2006.07733).

It has no negatives. View 1 is the query (masked, by default), view 2 the key.

Shapes: B this rank's batch, D embedding.
"""

import torch
from torch import Tensor, nn

from training.core.distributed import average_buffers, gather_rows
from training.core.schedules import Moment, half_cosine
from training.encoders.encoder import Backbone, group_batch_norm, projection_head
from training.methods.byol.settings import BYOLConfig
from training.methods.interface import (
    Encode,
    Method,
    ProjectedBackbone,
    StepResult,
    embedding_spread,
    momentum_copy,
    unit_rows,
    update_momentum,
)
from training.randomness.draws import KEY, QUERY
from training.views.inputs import EncoderInputs


class Predictor(nn.Module):
    """The online encoder and the predictor behind it: images to predicted unit embeddings."""

    def __init__(self, backbone: Backbone, config: BYOLConfig) -> None:
        super().__init__()
        self.encoder = ProjectedBackbone(backbone, config)
        self.predictor = projection_head(
            config.embedding_dim, config.predictor_width, config.embedding_dim, batch_norm=True
        )
        if config.batch_norm_group is not None:
            group_batch_norm(self.predictor, config.batch_norm_group)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Returns unit rows [B, D]; the predictor sees the embeddings as the head makes them."""
        return unit_rows(self.predictor(self.encoder.embed(images_BCHW)))


class BYOL(Method):
    """Online encoder, predictor and target encoder; the online encoder's backbone is kept."""

    config_type = BYOLConfig

    def __init__(
        self, config: BYOLConfig, backbone: Backbone, *, batch_size: int, seed: int
    ) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.online = Predictor(backbone, config)
        self.target = momentum_copy(self.online.encoder)

    @property
    def encoder(self) -> ProjectedBackbone:  # type: ignore[override]
        """The online encoder, without its predictor."""
        return self.online.encoder

    @property
    def trained(self) -> nn.Module:
        """Online encoder and predictor."""
        return self.online

    def step(self, inputs: EncoderInputs, *, encode: Encode, moment: Moment) -> StepResult:
        """One step's loss, 2 - 2 * cosine, summed over the directions; moves the target first."""
        momentum = half_cosine(moment, self.config.target_momentum, 1.0)
        update_momentum(self.target, self.online.encoder, momentum)
        views = (inputs.views[QUERY], inputs.views[KEY])
        with torch.no_grad():
            targets_BD = [self.target(view) for view in reversed(views)]
        directions = 2 if self.config.symmetric else 1
        predicted = encode(torch.cat(views[:directions])).chunk(directions)
        pairs = zip(predicted, targets_BD[:directions], strict=True)
        similarity_VB = torch.stack([(mine * other).sum(dim=1) for mine, other in pairs])
        if inputs.weights_B is not None:
            similarity_VB = similarity_VB * inputs.weights_B
        similarity_V = similarity_VB.mean(dim=1)
        metrics = {
            "positive_similarity": similarity_V.detach().mean(),
            "embedding_spread": embedding_spread(gather_rows(targets_BD[0])),
        }
        return StepResult((2 - 2 * similarity_V).sum(), metrics, {"target_momentum": momentum})

    def average_statistics(self) -> None:
        """Average both encoders' batch-norm statistics over the ranks."""
        average_buffers(self.online)
        average_buffers(self.target)
