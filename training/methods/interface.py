"""What a method is to the loop: settings, a step, and the backbone that is kept.

The loop knows nothing else of a method. A new one: a file beside this one with a subclass of
`MethodConfig` that has a `name` and one of `Method`, and a line in the registry.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.errors import InputError
from training.core.fields import Chosen
from training.encoders.batch_norm import group_batch_norm
from training.encoders.encoder import Backbone, projection_head
from training.views.inputs import EncoderInputs


class StepResult(NamedTuple):
    """What a step gives back.

    Attributes:
        loss: mean over this rank's batch, with its graph.
        metrics: scalars to log, on the device; their means over steps and ranks are recorded.
        settings: numbers of this step that are known on the host, such as rho.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    settings: dict[str, float]


@dataclass(frozen=True)
class Moment:
    """Where in a run a step is.

    Attributes:
        step: global step, from 0.
        steps_per_epoch: global steps of an epoch.
        total_steps: global steps of the run.
    """

    step: int
    steps_per_epoch: int
    total_steps: int


def half_cosine(moment: Moment, first: float, last: float) -> float:
    """From `first` at the first step to `last` at the end of a run, along half a cosine."""
    rise = (math.cos(math.pi * moment.step / moment.total_steps) + 1) / 2
    return last - (last - first) * rise


@dataclass(frozen=True, kw_only=True)
class MethodConfig(Chosen):
    """Settings that every method has; a method's own class has its ``name``.

    Attributes:
        embedding_dim: D, length of the embeddings that are compared, 1 or more.
        head_layers: linear layers of the projection head, a ReLU between two, 1 or more.
        head_width: width of its inner layers, 1 or more; none: that of the features.
        head_batch_norm: whether batch norm stands behind its inner layers.
        batch_norm_group: samples that share batch statistics, 2 or more, divides each worker's
            batch; none: a worker's whole batch (then the statistics depend on the number of
            workers).
    """

    embedding_dim: int = 128
    head_layers: int = 2
    head_width: int | None = None
    head_batch_norm: bool = False
    batch_norm_group: int | None = 32

    def __post_init__(self) -> None:
        self.check(self.embedding_dim >= 1, "embedding_dim", "must be 1 or more")
        self.check(self.head_layers >= 1, "head_layers", "must be 1 or more")
        self.check(self.head_width is None or self.head_width >= 1, "head_width", "must be above 0")
        group = self.batch_norm_group
        self.check(group is None or group >= 2, "batch_norm_group", "must be 2 or more")

    def check(self, fits: bool, name: str, wanted: str) -> None:
        """Raises ``InputError`` naming a field unless it fits."""
        if not fits:
            raise InputError(f"method.{name} {getattr(self, name)} {wanted}")

    def renamed(self, name: str) -> "MethodConfig":
        """The defaults of another method; batch-norm groups go by the batch, and stay."""
        other = super().renamed(name)
        assert isinstance(other, MethodConfig)
        return replace(other, batch_norm_group=self.batch_norm_group)

    @property
    def negative_views(self) -> tuple[int, ...]:
        """Numbers of the views that are hard negatives (`training.randomness.draws.negative_view`)."""
        return ()

    @property
    def exchange(self) -> float | None:
        """Share of the queries that get a further copy on another background; None: no copies."""
        return None

    @property
    def has_object_head(self) -> bool:
        """Whether there is a second projection head."""
        return False

    def check_batch(self, batch_size: int, num_ranks: int) -> None:
        """Raises ``InputError`` unless the global batch fits ranks and batch-norm groups."""
        rank_batch, group = batch_size // num_ranks, self.batch_norm_group
        if rank_batch < 2:
            raise InputError(
                f"{num_ranks} ranks leave {rank_batch} image each of a global batch of "
                f"{batch_size}: batch norm needs 2, use at most {batch_size // 2} ranks"
            )
        if group is not None and (group < 2 or rank_batch % group):
            raise InputError(
                f"method.batch_norm_group {group} does not divide the {rank_batch} images "
                f"of a rank (global batch {batch_size} over {num_ranks} ranks): "
                f"try {math.gcd(max(group, 1), rank_batch)} or fewer ranks"
            )


class Method(nn.Module, ABC):
    """A method: its modules, and what it makes of a batch.

    Subclasses are built with the settings, the backbone to pretrain, the global batch's size and a
    seed of all that is drawn.
    """

    config_type: ClassVar[type[MethodConfig]]

    @abstractmethod
    def __init__(
        self,
        config: Any,  # noqa: ANN401  (an instance of `config_type`)
        backbone: Backbone,
        *,
        batch_size: int,
        seed: int,
    ) -> None: ...

    @property
    @abstractmethod
    def backbone(self) -> Backbone:
        """The backbone that is kept and exported."""

    @property
    @abstractmethod
    def embedder(self) -> "PlainEmbedder":
        """The backbone that is kept and its projection head: images to unit embeddings [B, D]."""

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The part that takes gradients (and is wrapped for data parallelism)."""

    @abstractmethod
    def step(
        self, inputs: EncoderInputs, *, encode: Callable[[Tensor], Tensor], moment: Moment
    ) -> StepResult:
        """One step's loss; what is not moved by gradients is updated on the way.

        Args:
            inputs: views on the device.
            encode: ``trained`` as wrapped for data parallelism.
            moment: where in the run this step is.
        """

    @abstractmethod
    def average_statistics(self) -> None:
        """Averages batch-norm statistics over the ranks (before a checkpoint)."""


class ProjectedBackbone(nn.Module):
    """Backbone and projection head, or two of them: images to unit embeddings.

    Args:
        backbone: images to features.
        config: shape of the heads, and the batch-norm groups of all.
    """

    def __init__(self, backbone: Backbone, config: MethodConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = self._new_head(config)
        self.object_head = self._new_head(config) if config.has_object_head else None
        if config.batch_norm_group is not None:
            group_batch_norm(self, config.batch_norm_group)

    def _new_head(self, config: MethodConfig) -> nn.Sequential:
        return projection_head(
            self.backbone.feature_dim,
            config.head_width or self.backbone.feature_dim,
            config.embedding_dim,
            num_layers=config.head_layers,
            batch_norm=config.head_batch_norm,
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Returns unit rows [B, D], in float32 where autocast made them narrower.

        With an object head its unit rows stand behind them: [B, 2 D] (`both_heads`).
        """
        features_BF = self.backbone(images_BCHW)
        rows_BD = unit_rows(self.head(features_BF))
        if self.object_head is None:
            return rows_BD
        return torch.cat((rows_BD, unit_rows(self.object_head(features_BF))), dim=1)


class PlainEmbedder(nn.Module):
    """Backbone and first projection head of a ``ProjectedBackbone``, whose modules it shares."""

    def __init__(self, projected: ProjectedBackbone) -> None:
        super().__init__()
        self.backbone: Backbone = projected.backbone
        self.head: nn.Module = projected.head

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Returns unit rows [B, D]."""
        return unit_rows(self.head(self.backbone(images_BCHW)))


def both_heads(rows_BX: Tensor, config: MethodConfig) -> tuple[Tensor, Tensor]:
    """The rows of the plain and of the object head; without an object head twice the same."""
    if not config.has_object_head:
        return rows_BX, rows_BX
    plain_BD, object_BD = rows_BX.chunk(2, dim=1)
    return plain_BD, object_BD


def unit_rows(rows_BD: Tensor) -> Tensor:
    """Rows of length 1, in float32 where they were narrower."""
    return functional.normalize(rows_BD if rows_BD.dtype.itemsize > 2 else rows_BD.float(), dim=1)
