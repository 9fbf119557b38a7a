"""Backbones as stages, and detectors around them."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import plain_network
from pipeline.images.filters import high_pass
from pipeline.images.preprocessing import HighPass, Preprocessing
from tests.training.evaluate.detection.cases import TINY
from training.evaluate.config import DetectionConfig
from training.evaluate.detection.network import (
    Prepared,
    build_detector,
    stages_of,
)

PLAIN = Preprocessing(view_size=32, resize=36, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
SMALL = replace(TINY, short_sides=(64,), long_side=96)


def network_of(name: str = "resnet18") -> nn.Module:
    torch.manual_seed(0)
    network, _ = plain_network(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that are not those of a new one
            statistics = dict(module.named_buffers())
            statistics["running_mean"].uniform_(-0.1, 0.1)
            statistics["running_var"].uniform_(0.5, 1.5)
    return network.eval()


def detector_of(
    config: DetectionConfig,
    network: nn.Module | None = None,
    *,
    masks: bool = False,
    autocast_dtype: torch.dtype | None = None,
) -> Any:  # noqa: ANN401  (torchvision has no types)
    return build_detector(
        network or network_of(),
        BackboneInfo(architecture="resnet18", feature_dim=512, preprocessing=PLAIN),
        config,
        num_classes=2,
        with_masks=masks,
        autocast_dtype=autocast_dtype,
    )


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "convnext_tiny"])
def test_the_stages_are_the_network(name: str) -> None:
    """Pooled, the last stage gives the network's own features (ConvNeXt: before its last norm)."""
    network: Any = network_of(name)
    x = torch.rand(2, 3, 64, 64)
    stages, channels = stages_of(network, name, frozen_norm=False)
    with torch.no_grad():
        wanted, y = network(x), x
        for stage, width, stride in zip(stages, channels, (4, 8, 16, 32), strict=True):
            y = stage(y)
            assert y.shape[1:] == (width, 64 // stride, 64 // stride)
        pooled = y.mean(dim=(2, 3))
        if name.startswith("convnext"):
            pooled = network.classifier[0](pooled[..., None, None]).flatten(1)
    torch.testing.assert_close(pooled, wanted)


def test_frozen_norm_computes_the_same_and_the_network_itself_is_left_alone() -> None:
    network, x = network_of(), torch.rand(2, 3, 64, 64)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plain, frozen = (
        nn.Sequential(*stages_of(network, "resnet18", frozen_norm=norm)[0])
        for norm in (False, True)
    )
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in frozen.modules()) == 20
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    with torch.no_grad():
        torch.testing.assert_close(plain(x), frozen.train()(x))
    for weight in (*plain.parameters(), *frozen.parameters()):
        weight.data.zero_()
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def loss_of(detector: nn.Module, *, masks: bool) -> dict[str, Tensor]:
    boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0]])
    target = {"boxes": boxes, "labels": torch.tensor([2])}
    empty = {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)}
    if masks:
        target["masks"] = torch.zeros(1, 48, 64, dtype=torch.uint8)
        target["masks"][:, 4:30, 4:30] = 1
        empty["masks"] = target["masks"][:0]
    images = [torch.rand(3, 48, 64), torch.rand(3, 64, 48)]
    losses: dict[str, Tensor] = detector.train()(images, [target, empty])
    return losses


@pytest.mark.parametrize("head", ["fpn", "c4"])
@pytest.mark.parametrize("masks", [False, True])
def test_detectors_learn_everywhere_and_detect(head: Literal["fpn", "c4"], masks: bool) -> None:
    detector = detector_of(replace(SMALL, head=head), masks=masks)
    losses = loss_of(detector, masks=masks)
    assert ("loss_mask" in losses) == masks
    sum(losses.values(), torch.zeros(())).backward()
    without = [n for n, p in detector.named_parameters() if p.grad is None]
    assert without == [], "weights that nothing teaches"
    detector.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        (found,) = detector.eval()([torch.rand(3, 48, 64)])
    assert set(found["labels"].tolist()) <= {1, 2}
    assert len(found["boxes"]) > 0
    assert found["boxes"][:, 0::2].max() <= 64, "boxes are in pixels of the image"
    assert ("masks" in found) == masks
    if masks:
        assert found["masks"].shape[1:] == (1, 48, 64)


def test_the_backbone_starts_from_the_given_weights_and_the_rest_from_the_seed() -> None:
    one, two = network_of(), network_of()
    nn.init.zeros_(two.get_parameter("conv1.weight"))
    states: list[dict[str, Tensor]] = []
    for network in (one, two):
        torch.manual_seed(7)
        states.append(detector_of(SMALL, network).state_dict())
    stem = "backbone.stages.0.0.weight"
    assert torch.equal(states[0].pop(stem), one.get_parameter("conv1.weight"))
    assert not states[1].pop(stem).any()
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


def test_the_backbones_own_normalisation_and_filter() -> None:
    image = torch.rand(3, 48, 64)
    mean, std = (torch.tensor(values)[:, None, None] for values in (PLAIN.mean, PLAIN.std))
    prepared = Prepared(DetectionConfig(short_sides=(48,), long_side=64), PLAIN).eval()
    images, _ = prepared([image])
    assert images.image_sizes == [(48, 64)]
    torch.testing.assert_close(images.tensors[0, :, :48, :64], (image - mean) / std)

    config = DetectionConfig(short_sides=(96,), long_side=128)
    filtered, without = (
        Prepared(config, replace(PLAIN, high_pass=filter_)).eval()([image])[0].tensors
        for filter_ in (HighPass(kernel=5, sigma=2.0), None)
    )
    torch.testing.assert_close(filtered, high_pass(without, 5, 2.0))


@pytest.mark.parametrize(("finest", "levels"), [(2, 5), (4, 3)])
def test_fpn_levels_and_anchors_and_where_bfloat16_stays(finest: int, levels: int) -> None:
    config = replace(SMALL, finest_level=finest)
    detector = detector_of(config, autocast_dtype=torch.bfloat16)
    seen = []
    detector.backbone.stages[0][0].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    features = detector.backbone(torch.rand(1, 3, 64, 96))
    assert len(features) == levels
    assert features["0"].shape == (1, 8, 64 // 2**finest, 96 // 2**finest)
    assert detector.rpn.anchor_generator.sizes == tuple((8.0 * 2**i,) for i in range(levels))
    assert seen == [torch.bfloat16]
    assert {level.dtype for level in features.values()} == {torch.float32}


def test_the_pyramid_is_torchvisions() -> None:
    """With frozen norm and all levels, it is the network that torchvision's own builder makes."""
    config = DetectionConfig(width=256, short_sides=(64,), long_side=96, norm="frozen")
    network = torchvision.models.resnet18()
    builder = torchvision.models.detection.backbone_utils.resnet_fpn_backbone
    reference = builder(backbone_name="resnet18", weights=None).eval()
    body = {f"body.{name}": value for name, value in network.state_dict().items()}
    network.fc = nn.Identity()
    ours = detector_of(config, network)
    fpn = {f"fpn.{name}": value for name, value in ours.backbone.pyramid.state_dict().items()}
    reference.load_state_dict({name: (body | fpn)[name] for name in reference.state_dict()})
    # In float64: float32 sums of other orders part by more than the default tolerance now and then.
    # What remains is that our detector rounds its levels to float32.
    x = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        theirs, found = reference.double()(x), ours.backbone.double().eval()(x)
    assert list(theirs) == list(found)
    for name in theirs:
        torch.testing.assert_close(found[name], theirs[name].float())
