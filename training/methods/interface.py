"""What a method is to the loop: settings, a step, and the backbone that is kept.

The loop knows nothing else of a method. A new one: a file beside this one with a subclass of
`MethodConfig` that has a `name` and one of `Method`, and a line in the registry.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.core.schedules import Moment
from training.encoders.encoder import Backbone, group_batch_norm, projection_head
from training.methods.settings import MethodConfig
from training.views.inputs import EncoderInputs
from training.views.spec import ViewSettings, ViewSpec


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


class Method(nn.Module, ABC):
    """A method: its modules, and what it makes of a batch.

    Subclasses are built with the settings, the backbone to pretrain, the global batch's size and a
    seed of all that is drawn.
    """

    config_type: ClassVar[type[MethodConfig]]

    @classmethod
    @abstractmethod
    def views(cls, config: Any, settings: ViewSettings) -> tuple[ViewSpec, ...]:  # noqa: ANN401
        """The views that the method wants of every image.

        One of them is cut from a crop named `query`, whose foreground is logged and shown. Names
        of views differ, and so do those of different crops.

        Args:
            config: an instance of `config_type`.
            settings: how the run cuts, masks and fills views.
        """

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
            inputs: the declared views, on the device.
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
