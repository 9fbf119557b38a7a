"""Backbones as stages, and detectors around them."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from pipeline.core.architectures import plain_network
from pipeline.core.errors import InputError
from pipeline.images.filters import high_pass
from pipeline.images.preprocessing import HighPass, Preprocessing
from training.evaluate.detection.config import DetectionConfig
from training.evaluate.detection.network import Prepared, build_detector
from training.evaluate.detection.stages import check_adapter, stages_of

PLAIN = Preprocessing(view_size=32, resize=36, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
TINY = DetectionConfig(
    short_sides=(64,),
    long_side=96,
    width=8,
    head_width=16,
    smallest_anchor=8,
    proposals=10,
    sampled=8,
)


def network_of(name: str = "resnet18", *, max_pool: bool = True) -> nn.Module:
    torch.manual_seed(0)
    network, _ = plain_network(name, max_pool=max_pool)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that are not those of a new one
            statistics = dict(module.named_buffers())
            statistics["running_mean"].uniform_(-0.1, 0.1)
            statistics["running_var"].uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "convnext_tiny"])
def test_the_stages_are_the_network(name: str) -> None:
    """Pooled, the last stage gives the network's own features (ConvNeXt: before its last norm)."""
    network: Any = network_of(name)
    x = torch.rand(2, 3, 64, 64)
    stages = stages_of(network, name, frozen_norm=False)
    with torch.no_grad():
        wanted, y = network(x), x
        for stage, stride in zip(stages, (4, 8, 16, 32), strict=True):
            y = stage(y)
            assert y.shape[1:] == (stage.channels, 64 // stride, 64 // stride)
            assert stage.stride == stride
        pooled = y.mean(dim=(2, 3))
        if name.startswith("convnext"):
            pooled = network.classifier[0](pooled[..., None, None]).flatten(1)
    torch.testing.assert_close(pooled, wanted)


def test_the_network_itself_is_left_alone() -> None:
    network = network_of()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for stage in stages_of(network, "resnet18", frozen_norm=True):
        for weight in stage.parameters():
            weight.data.zero_()
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_frozen_norm_computes_the_same_and_stays() -> None:
    network, x = network_of(), torch.rand(2, 3, 64, 64)
    plain, frozen = (stages_of(network, "resnet18", frozen_norm=frozen) for frozen in (False, True))
    norms = [m for stage in frozen for m in stage.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 20
    assert not [m for stage in frozen for m in stage.modules() if isinstance(m, nn.BatchNorm2d)]
    y = z = x
    with torch.no_grad():
        for one, two in zip(plain, frozen, strict=True):
            y, z = one(y), two.train()(z)
    torch.testing.assert_close(y, z)


def test_without_the_maximum_pooling_the_strides_are_half() -> None:
    stages = stages_of(network_of(max_pool=False), "resnet18", frozen_norm=False)
    assert [stage.stride for stage in stages] == [2, 4, 8, 16]


@pytest.mark.parametrize("name", ["densenet121", "timm:resnet18"])
def test_no_adapter(name: str) -> None:
    with pytest.raises(InputError, match=f"no adapter for {name}: .*resnet, regnet, convnext"):
        check_adapter(name)


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
def test_detectors_learn_everywhere_and_detect(head: str, masks: bool) -> None:
    config = DetectionConfig(**(vars(TINY) | {"head": head}))
    detector: Any = build_detector(
        network_of(), "resnet18", PLAIN, config, num_classes=2, with_masks=masks
    )
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
        detector: Any = build_detector(
            network, "resnet18", PLAIN, TINY, num_classes=2, with_masks=False
        )
        states.append(detector.state_dict())
    stem = "backbone.stages.0.0.weight"
    assert torch.equal(states[0][stem], one.get_parameter("conv1.weight"))
    assert not states[1][stem].any()
    others = [name for name in states[0] if name != stem]
    assert all(torch.equal(states[0][name], states[1][name]) for name in others)


def test_the_backbones_own_normalisation_and_filter() -> None:
    image = torch.rand(3, 48, 64)
    mean, std = (torch.tensor(values)[:, None, None] for values in (PLAIN.mean, PLAIN.std))
    normalised = (image - mean) / std
    prepared = Prepared(DetectionConfig(short_sides=(48,), long_side=64), PLAIN).eval()
    images, _ = prepared([image])
    assert images.image_sizes == [(48, 64)]
    torch.testing.assert_close(images.tensors[0, :, :48, :64], normalised)

    filtered = Preprocessing(view_size=32, resize=36, high_pass=HighPass(kernel=5, sigma=2.0))
    config = DetectionConfig(short_sides=(96,), long_side=128)
    images, _ = Prepared(config, filtered).eval()([image])
    without, _ = Prepared(config, Preprocessing(view_size=32, resize=36)).eval()([image])
    torch.testing.assert_close(images.tensors, high_pass(without.tensors, 5, 2.0))


def test_fpn_levels_and_anchors() -> None:
    for finest, levels in ((2, 5), (4, 3)):
        config = DetectionConfig(**(vars(TINY) | {"finest_level": finest}))
        detector: Any = build_detector(
            network_of(), "resnet18", PLAIN, config, num_classes=1, with_masks=False
        )
        features = detector.backbone(torch.rand(1, 3, 64, 96))
        assert len(features) == levels
        assert features["0"].shape == (1, 8, 64 // 2**finest, 96 // 2**finest)
        sizes = detector.rpn.anchor_generator.sizes
        assert sizes == tuple((8.0 * 2**i,) for i in range(levels))


def test_bfloat16_stays_in_the_backbone() -> None:
    detector: Any = build_detector(
        network_of(),
        "resnet18",
        PLAIN,
        TINY,
        num_classes=1,
        with_masks=False,
        autocast_dtype=torch.bfloat16,
    )
    seen = []
    detector.backbone.stages[0][0].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    features = detector.backbone(torch.rand(1, 3, 64, 64))
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
    ours: Any = build_detector(network, "resnet18", PLAIN, config, num_classes=1, with_masks=False)
    pyramid = ours.backbone.pyramid.state_dict()
    fpn = {f"fpn.{name}": value for name, value in pyramid.items()}
    wanted = reference.state_dict()
    reference.load_state_dict({name: (body | fpn)[name] for name in wanted})
    # In float64: float32 sums of other orders part by more than the default tolerance now and then.
    # What remains is that our detector rounds its levels to float32.
    x = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        theirs, found = reference.double()(x), ours.backbone.double().eval()(x)
    assert list(theirs) == list(found)
    for name in theirs:
        torch.testing.assert_close(found[name], theirs[name].float())
