"""Build torchvision's Faster R-CNN or Mask R-CNN around a pretrained backbone, with FPN or C4.

Shapes: B batch, C channels, H W pixels.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import TIMM, family
from pipeline.core.errors import check
from pipeline.images.filters import high_pass
from pipeline.images.preprocessing import Preprocessing
from training.encoders.encoder import Backbone
from training.evaluate.config import DetectionConfig

STAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "resnet": (
        ("conv1", "bn1", "relu", "maxpool", "layer1"),
        ("layer2",),
        ("layer3",),
        ("layer4",),
    ),
    "regnet": (
        ("stem", "trunk_output.block1"),
        ("trunk_output.block2",),
        ("trunk_output.block3",),
        ("trunk_output.block4",),
    ),
    "convnext": tuple((f"features.{2 * i}", f"features.{2 * i + 1}") for i in range(4)),
}
"""Module of `torchvision.models` -> the parts of its four stages, each at half the resolution of
the one before. A new adapter is a line."""
PROBE_SIZE = 128
RATIOS = (0.5, 1.0, 2.0)
"""Height by width of the anchors."""
C4_ANCHORS = 5
C4_REGION, C4_MASK_WIDTH = 14, 256
"""Side of a region before the last stage (Detectron's C4), and channels of the mask behind it."""


class Levels(nn.Module):
    """The backbone's stages and, with a pyramid, its levels by name: what torchvision wants.

    The backbone computes in `autocast_dtype` (None: float32), all that follows in float32.
    """

    autocast_dtype: torch.dtype | None = None

    def __init__(
        self,
        stages: Sequence[nn.Module],
        pyramid: FeaturePyramidNetwork | None,
        out_channels: int,
    ) -> None:
        super().__init__()
        self.stages, self.pyramid = nn.ModuleList(stages), pyramid
        self.out_channels = out_channels

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Levels, each [B, out_channels, h, w], the finest first."""
        dtype = self.autocast_dtype
        with torch.autocast(x_BCHW.device.type, dtype, enabled=dtype is not None):
            outputs = [x_BCHW.contiguous(memory_format=torch.channels_last)]
            for stage in self.stages:
                outputs.append(stage(outputs[-1]))
            used = outputs[-len(self.pyramid.inner_blocks) :] if self.pyramid else outputs[-1:]
            levels = {str(i): level for i, level in enumerate(used)}
            if self.pyramid is not None:
                levels = self.pyramid(levels)
        return {name: level.float() for name, level in levels.items()}


class Prepared(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's resizing, with the backbone's own normalisation and filter.

    The filter's kernel counts pixels of what the network sees, so it comes after the resizing.
    """

    def __init__(self, config: DetectionConfig, preprocessing: Preprocessing) -> None:
        mean, std = list(preprocessing.mean), list(preprocessing.std)
        super().__init__(config.short_sides, config.long_side, mean, std)
        self.filter = preprocessing.high_pass

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize the normalised image [3, H, W] and its boxes, then filter the image."""
        image, target = super().resize(image, target)
        if self.filter is not None:
            image = high_pass(image[None], self.filter.kernel, self.filter.sigma)[0]
        return image, target


def check_adapter(architecture: str) -> None:
    """Raise InputError for an architecture that has no stages here."""
    check(
        not architecture.startswith(TIMM) and family(architecture) in STAGES,
        f"detection has no adapter for {architecture}: wanted a network of torchvision's "
        f"{', '.join(STAGES)}",
    )


def stages_of(
    network: nn.Module, architecture: str, *, frozen_norm: bool
) -> tuple[list[nn.Module], list[int]]:
    """Copy the four stages of a plain network, or of a `Backbone` around one; and their channels.

    With `frozen_norm` their batch norm keeps its statistics and weights.
    """
    network = copy.deepcopy(network.network if isinstance(network, Backbone) else network)
    if frozen_norm:
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
                frozen.load_state_dict(module.state_dict(), strict=False)
                network.set_submodule(name, frozen.to(module.weight.device))
    parts = STAGES[family(architecture)]
    stages = [nn.Sequential(*map(network.get_submodule, names)) for names in parts]
    x_1CHW = torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE, device=next(network.parameters()).device)
    channels = []
    with torch.no_grad():
        for stage in stages:
            x_1CHW = stage.eval()(x_1CHW)
            channels.append(x_1CHW.shape[1])
    return [*stages], channels


def build_detector(
    network: nn.Module,
    info: BackboneInfo,
    config: DetectionConfig,
    *,
    num_classes: int,
    with_masks: bool,
    autocast_dtype: torch.dtype | None = None,
) -> nn.Module:
    """A detector on the network's device whose backbone starts from a copy of its weights.

    The network is plain, of an architecture that has an adapter. `info` says what it wants to see:
    mean, std and filter; not the sizes. The classes are counted without the background. Only the
    backbone computes in `autocast_dtype`.

    Returns:
        torchvision's `GeneralizedRCNN`: images float [3, H, W] in [0, 1] in a list; with targets
        in training mode a dict of losses, else boxes, labels from 1, scores and masks. The new
        weights come from torch's global generator.
    """
    frozen = config.norm == "frozen"
    stages, channels = stages_of(network, info.architecture, frozen_norm=frozen)
    parts = _fpn if config.head == "fpn" else _c4
    backbone, keywords = parts(stages, channels, config, num_classes + 1, with_masks)
    backbone.autocast_dtype = autocast_dtype
    kind = MaskRCNN if with_masks else FasterRCNN
    detector: nn.Module = kind(
        backbone,
        rpn_pre_nms_top_n_train=2 * config.proposals,
        rpn_pre_nms_top_n_test=config.proposals,
        rpn_post_nms_top_n_train=config.proposals,
        rpn_post_nms_top_n_test=config.proposals,
        box_batch_size_per_image=config.sampled,
        **keywords,
    )
    detector.transform = Prepared(config, info.preprocessing)
    return detector.to(next(network.parameters()).device)


def _anchors(config: DetectionConfig, count: int) -> list[float]:
    return [config.smallest_anchor * 2**i for i in range(count)]


def _fpn(
    stages: Sequence[nn.Module],
    channels: Sequence[int],
    config: DetectionConfig,
    num_logits: int,
    with_masks: bool,
) -> tuple[Levels, dict[str, Any]]:
    """A pyramid on the stages from `finest_level` on, and one level above it for the anchors."""
    used = channels[config.finest_level - 2 :]
    norm = nn.BatchNorm2d if config.norm == "batch" else None
    pyramid = FeaturePyramidNetwork(
        used, config.width, extra_blocks=LastLevelMaxPool(), norm_layer=norm
    )
    pool = partial(MultiScaleRoIAlign, [str(i) for i in range(len(used))], sampling_ratio=2)
    sizes = tuple((size,) for size in _anchors(config, len(used) + 1))
    keywords: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
        "box_roi_pool": pool(output_size=7),
        "box_head": TwoMLPHead(config.width * 7 * 7, config.head_width),
        "box_predictor": FastRCNNPredictor(config.head_width, num_logits),
    }
    if with_masks:  # torchvision's own head, of 256 channels
        keywords["mask_roi_pool"] = pool(output_size=14)
        keywords["mask_predictor"] = MaskRCNNPredictor(256, 256, num_logits)
    return Levels(stages, pyramid, config.width), keywords


def _c4(
    stages: Sequence[nn.Module],
    channels: Sequence[int],
    config: DetectionConfig,
    num_logits: int,
    with_masks: bool,
) -> tuple[Levels, dict[str, Any]]:
    """One level behind the third stage; the fourth runs on every region, for box and mask alike."""
    *body, last = stages
    pool = partial(MultiScaleRoIAlign, ["0"], output_size=C4_REGION, sampling_ratio=2)
    keywords: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator((_anchors(config, C4_ANCHORS),), (RATIOS,)),
        "box_roi_pool": pool(),
        "box_head": nn.Sequential(last, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "box_predictor": FastRCNNPredictor(channels[-1], num_logits),
    }
    if with_masks:
        keywords["mask_roi_pool"] = pool()
        keywords["mask_head"] = last
        keywords["mask_predictor"] = MaskRCNNPredictor(channels[-1], C4_MASK_WIDTH, num_logits)
    return Levels(body, None, channels[-2]), keywords
