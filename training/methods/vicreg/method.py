"""VICReg: two views' embeddings agree, every dimension varies, no two dimensions correlate.

Bardes, Ponce and LeCun, arXiv 2105.04906. It has no negatives.

Shapes: B this rank's batch, G global batch, D embedding.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.core.distributed import gather_rows, gather_rows_with_gradient
from training.core.schedules import Moment
from training.encoders.encoder import Backbone
from training.methods.interface import (
    Encode,
    Method,
    ProjectedBackbone,
    StepResult,
    at_least_float32,
    embedding_spread,
    unit_rows,
)
from training.methods.vicreg.settings import VICRegConfig
from training.randomness.draws import KEY, QUERY
from training.views.inputs import EncoderInputs

EPSILON = 1e-4
"""Added to variances before their root, as in the paper."""


class VICRegTerms(NamedTuple):
    """The three terms of the loss, without their weights."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg_terms(
    view1_GD: Tensor, view2_GD: Tensor, weights_G: Tensor | None = None
) -> VICRegTerms:
    """The terms of VICReg's loss (arXiv 2105.04906, section 4.1).

    s = mean over images and dimensions of (z - z')^2; v = mean over dimensions of
    max(0, 1 - sqrt(Var + 1e-4)), averaged over the views; c = sum over pairs of different
    dimensions of Cov^2 / D, summed over the views.

    Args:
        view1_GD: embeddings, not normalised.
        view2_GD: those of the other view.
        weights_G: weight of each image, with mean 1; None: 1.
    """
    count, dimensions = view1_GD.shape
    weights_G1 = view1_GD.new_ones(count, 1)
    if weights_G is not None:
        weights_G1 = weights_G.to(view1_GD.dtype)[:, None]
    variance, covariance = [], []
    for rows_GD in (view1_GD, view2_GD):
        centred_GD = rows_GD - (weights_G1 * rows_GD).mean(dim=0)
        covariance_DD = (weights_G1 * centred_GD).T @ centred_GD / (count - 1)
        variance_D = covariance_DD.diagonal()
        variance.append(torch.relu(1 - torch.sqrt(variance_D + EPSILON)).mean())
        squares = covariance_DD.square().sum() - variance_D.square().sum()
        covariance.append(squares / dimensions)
    return VICRegTerms(
        (weights_G1 * (view1_GD - view2_GD).square()).mean(),
        (variance[0] + variance[1]) / 2,
        covariance[0] + covariance[1],
    )


class Expander(ProjectedBackbone):
    """Backbone and head: images to embeddings that are not normalised."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Returns rows [B, D], in float32 where autocast made them narrower."""
        return at_least_float32(self.embed(images_BCHW))


class VICReg(Method):
    """One encoder for both views; its backbone is kept.

    Gradients flow through the embeddings of every rank, so that any number of ranks has the
    gradient of the whole global batch's loss.
    """

    config_type = VICRegConfig

    def __init__(
        self, config: VICRegConfig, backbone: Backbone, *, batch_size: int, seed: int
    ) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.encoder = Expander(backbone, config)

    def step(self, inputs: EncoderInputs, *, encode: Encode, moment: Moment) -> StepResult:
        """The weighted sum of the three terms, over the global batch."""
        config = self.config
        rows = encode(torch.cat((inputs.views[QUERY], inputs.views[KEY]))).chunk(2)
        view1_GD, view2_GD = map(gather_rows_with_gradient, rows)
        weights_G = None if inputs.weights_B is None else gather_rows(inputs.weights_B)
        terms = vicreg_terms(view1_GD, view2_GD, weights_G)
        loss = (
            config.invariance * terms.invariance
            + config.variance * terms.variance
            + config.covariance * terms.covariance
        )
        unit1_GD, unit2_GD = unit_rows(view1_GD.detach()), unit_rows(view2_GD.detach())
        metrics = {f"{name}_term": term.detach() for name, term in terms._asdict().items()}
        metrics |= {
            "positive_similarity": (unit1_GD * unit2_GD).sum(dim=1).mean(),
            "embedding_spread": embedding_spread(unit2_GD),
        }
        return StepResult(loss, metrics, {})
