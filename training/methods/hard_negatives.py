"""What contrastive methods with own hard negatives share: views, losses and figures.

Shapes: B this rank's batch, N hard negatives per image, D embedding.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.core.errors import InputError
from training.core.distributed import gather_rows, rank, world_size
from training.methods.losses import Weigh, prime_log_weights
from training.methods.settings import HardNegativeConfig
from training.randomness.draws import QUERY
from training.views.spec import LOCAL, ViewSettings, ViewSpec


def declared(
    config: HardNegativeConfig, sources: Sequence[str], settings: ViewSettings
) -> tuple[ViewSpec, ...]:
    """All views: query, key, hard negatives cut from some crops, and the further positives."""
    cut = [
        settings.hard_negative(source, number)
        for source in sources
        for number in range(config.num_hard_negatives)
    ]
    copies = () if config.exchange is None else (settings.exchanged(config.exchange),)
    more = [settings.query(f"{QUERY}-{index}") for index in range(1, config.queries)]
    return (settings.query(), settings.key(), *cut, *copies, *more, *settings.local_crops())


def plain_loss(
    config: HardNegativeConfig,
    query: Tensor,
    more_queries: Sequence[Tensor],
    local: Sequence[Tensor],
) -> Tensor:
    """The loss of the first head: queries and local crops (arXiv 2210.02808, section 3.2).

    Args:
        config: the weights.
        query: loss of the first query.
        more_queries: those of the others.
        local: those of the local crops.
    """
    of_queries = torch.stack([query, *more_queries]).mean() if more_queries else query
    if not local:
        return of_queries
    of_crops = torch.stack([*local]).mean()
    return (1 - config.local_weight) * of_queries + config.local_weight * of_crops


def mixed_loss(config: HardNegativeConfig, plain: Tensor, of_object: Tensor | None) -> Tensor:
    """The loss of both heads; None: there is no object head."""
    if of_object is None:
        return plain
    return (1 - config.object_weight) * plain + config.object_weight * of_object


def weigh_for(config: HardNegativeConfig) -> Weigh | None:
    """The weights of hard negatives for the loss; None: all alike."""
    if not config.prime_weights:
        return None

    def weigh(similarity_BN: Tensor, scale: float | Tensor) -> Tensor:
        """Ranks over the global batch, so that the number of ranks makes no difference."""
        weights = prime_log_weights(
            gather_rows(similarity_BN.detach()),
            scale=scale,
            power=config.prime_power,
            bias=config.prime_bias,
        )
        return weights.chunk(world_size())[rank()]

    return weigh


def negatives_of(source: str, views: Mapping[str, Tensor]) -> list[Tensor]:
    """The hard negatives that are cut from a crop, in order."""
    return [image for name, image in views.items() if name.startswith(f"negative-{source}-")]


def further_queries(views: Mapping[str, Tensor]) -> list[Tensor]:
    """The queries but the first, in order."""
    return [image for name, image in views.items() if name.startswith(f"{QUERY}-")]


def local_crops(views: Mapping[str, Tensor]) -> list[Tensor]:
    """The local crops, in order."""
    return [image for name, image in views.items() if name.startswith(f"{LOCAL}-")]


def embedding_spread(rows_BD: Tensor) -> Tensor:
    """1 for unit rows all over the sphere, 0 for a collapse to one point; no gradient."""
    spread: Tensor = rows_BD.detach().std(dim=0, correction=0).norm()
    return spread


def hard_metrics(
    hard_similarity: Tensor | None, hard_share: Tensor | None, positive_similarity: Tensor
) -> dict[str, Tensor]:
    """What is logged of hard negatives, from tensors of any shape, without gradient.

    Args:
        hard_similarity: similarities of anchors and their hard negatives; None: there are none.
        hard_share: their share of the softmax's denominator, for each anchor.
        positive_similarity: of anchors and their positives.
    """
    if hard_similarity is None or hard_share is None:
        return {}
    hard = hard_similarity.detach().mean()
    return {
        "hard_negative_similarity": hard,
        "hard_negative_share": hard_share.detach().mean(),
        "hard_negative_margin": positive_similarity.detach().mean() - hard,
    }


def one_for_each(rows_RD: Tensor, batch: int) -> Tensor:
    """A rank's hard negatives [B, D]; a single row, [1, D], becomes that of every image."""
    return rows_RD.expand(batch, -1) if len(rows_RD) == 1 else rows_RD


def too_small_for_one(error: ValueError) -> InputError:
    """What to say where batch norm has no statistics for a batch of one image."""
    return InputError(
        "masks.behaviour released encodes the hard negative as a batch of one image, which has no "
        f"batch statistics where the last feature map is a single position ({error}): use larger "
        "views or masks.behaviour paper"
    )
