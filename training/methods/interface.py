"""The interface of methods, which is all that the loop knows of them, and modules they share.

Shapes: B this rank's batch, C channels, H W pixels, D embedding.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.core.distributed import average_buffers
from training.core.schedules import Moment
from training.encoders.encoder import Backbone, group_batch_norm, projection_head
from training.methods.settings import MethodConfig
from training.views.inputs import EncoderInputs
from training.views.spec import ViewSettings, ViewSpec

Module = TypeVar("Module", bound=nn.Module)
Encode = Callable[[Tensor], Tensor]
"""`Method.trained`, as wrapped for data parallelism: images [B, C, H, W] to embeddings."""


class StepResult(NamedTuple):
    """The result of a step."""

    loss: Tensor
    """Mean over this rank's batch, with its graph."""
    metrics: dict[str, Tensor]
    """Scalars on the device; their means over steps and ranks are recorded."""
    settings: dict[str, float]
    """Numbers of this step that are known on the host, such as rho."""
    kept: Any = None
    """What `Method.adversary_loss` wants of this step."""


class ProjectedBackbone(nn.Module):
    """Backbone and projection head, or two heads: images to unit embeddings."""

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

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Rows [B, D] as the plain head makes them, not normalised."""
        rows_BD: Tensor = self.head(self.backbone(images_BCHW))
        return rows_BD

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Unit rows [B, D]; with an object head its rows follow: [B, 2 D] (`both_heads`)."""
        features_BF = self.backbone(images_BCHW)
        rows_BD = unit_rows(self.head(features_BF))
        if self.object_head is None:
            return rows_BD
        return torch.cat((rows_BD, unit_rows(self.object_head(features_BF))), dim=1)

    def both_heads(self, rows_BX: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of the plain and of the object head; without object head twice the same."""
        if self.object_head is None:
            return rows_BX, rows_BX
        plain_BD, object_BD = rows_BX.chunk(2, dim=1)
        return plain_BD, object_BD


class PlainEmbedder(nn.Module):
    """Images to unit rows [B, D]: backbone and plain head of a `ProjectedBackbone`, shared."""

    def __init__(self, projected: ProjectedBackbone) -> None:
        super().__init__()
        self.backbone, self.head = projected.backbone, projected.head

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Returns unit rows [B, D]."""
        return unit_rows(self.head(self.backbone(images_BCHW)))


class Method(nn.Module, ABC):
    """A method: its modules, and the loss of a batch.

    Subclasses are built with the settings, the backbone to pretrain, the global batch's size and a
    seed of all that is drawn. They have an `encoder`, or override what is derived from it.
    """

    config_type: ClassVar[type[MethodConfig]]
    encoder: ProjectedBackbone
    """Its backbone is kept and exported."""

    @classmethod
    def views(cls, config: Any, settings: ViewSettings) -> tuple[ViewSpec, ...]:  # noqa: ANN401
        """The views that the method wants of every image; by default query and key.

        The first one is cut from a crop named `query`, whose foreground is logged and shown. Names
        of views differ, and so do those of different crops. `config` is a `config_type`.
        """
        return settings.query(), settings.key()

    @abstractmethod
    def __init__(self, config: Any, backbone: Backbone, *, batch_size: int, seed: int) -> None: ...  # noqa: ANN401

    @property
    def backbone(self) -> Backbone:
        """The backbone that is kept and exported."""
        return self.encoder.backbone

    @property
    def embedder(self) -> PlainEmbedder:
        """The backbone that is kept and its projection head: images to unit embeddings [B, D]."""
        return PlainEmbedder(self.encoder)

    @property
    def trained(self) -> nn.Module:
        """The part that takes gradients (and is wrapped for data parallelism)."""
        return self.encoder

    @abstractmethod
    def step(self, inputs: EncoderInputs, *, encode: Encode, moment: Moment) -> StepResult:
        """The loss of the declared views, on the device; also updates what takes no gradients."""

    def adversary_loss(self, query_BCHW: Tensor, kept: Any) -> Tensor:  # noqa: ANN401
        """The loss of a step's queries under other masks, for strategy `learned`.

        All else is `kept` from the step (`StepResult`). Nothing of the method changes. Returns the
        mean over this rank's batch, with its graph. A method that has no such loss leaves this out.
        """
        raise NotImplementedError

    def average_statistics(self) -> None:
        """Average batch-norm statistics over the ranks (before a checkpoint)."""
        average_buffers(self.trained)


def encode_together(encode: Encode, images: list[Tensor]) -> tuple[Tensor, ...]:
    """The embeddings of each of some batches of images, in one pass."""
    return encode(torch.cat(images)).split(len(images[0])) if images else ()


def at_least_float32(rows_BD: Tensor) -> Tensor:
    """The rows, in float32 where autocast made them narrower."""
    return rows_BD if rows_BD.dtype.itemsize > 2 else rows_BD.float()


def unit_rows(rows_BD: Tensor) -> Tensor:
    """Rows of length 1, in float32 where autocast made them narrower."""
    return functional.normalize(at_least_float32(rows_BD), dim=1)


def embedding_spread(rows_BD: Tensor) -> Tensor:
    """1 for unit rows all over the sphere, 0 for a collapse to one point; no gradient."""
    spread: Tensor = rows_BD.detach().std(dim=0, correction=0).norm()
    return spread


def momentum_copy(module: Module) -> Module:
    """A copy of a module that takes no gradients: a momentum encoder (He et al., MoCo, 2020)."""
    target = copy.deepcopy(module)
    for parameter in target.parameters():
        parameter.requires_grad_(False)
    return target


@torch.no_grad()
def update_momentum(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """Move parameters: target <- momentum * target + (1 - momentum) * source, momentum in [0, 1].

    Buffers (batch-norm statistics) stay: they come from the target's own forward passes.
    """
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), 1 - momentum)
