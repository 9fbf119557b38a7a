import sys

import pytest
import torch

from pipeline.core.architectures import (
    ARCHITECTURES,
    NoInitialWeights,
    check_architecture,
    plain_network,
    stem_name,
)
from pipeline.core.errors import InputError


def test_architectures_are_convnets() -> None:
    assert {"resnet18", "resnext50_32x4d", "wide_resnet50_2", "convnext_tiny"} <= set(ARCHITECTURES)
    assert {"efficientnet_b0", "mobilenet_v3_large", "regnet_y_400mf"} <= set(ARCHITECTURES)
    assert not {"vgg16", "vit_b_16", "swin_t", "fcn_resnet50"} & set(ARCHITECTURES)


@pytest.mark.parametrize(("name", "dim"), [("resnet18", 512), ("mobilenet_v3_small", 576)])
def test_plain_network_gives_pooled_features(name: str, dim: int) -> None:
    network, feature_dim = plain_network(name)
    assert feature_dim == dim
    assert network.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, dim)


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_tiny", "regnet_y_400mf", "timm:test_resnet"]
)
def test_what_is_built_for_other_weights_draws_nothing_and_is_the_same_with_them(name: str) -> None:
    whole = plain_network(name)[0].eval()
    before = torch.get_rng_state()
    with NoInitialWeights():
        built = plain_network(name)[0].eval()
    assert torch.equal(torch.get_rng_state(), before)
    built.load_state_dict(whole.state_dict())
    views = torch.rand(2, 3, 64, 64)
    assert torch.equal(built(views), whole(views))
    assert torch.rand(()) > 0  # outside of it, draws are draws
    assert torch.nn.Linear(2, 2).weight.abs().max() <= 1


def test_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"'vgg16'.*timm:NAME.*resnet18.*wide_resnet50_2"):
        plain_network("vgg16")


def test_only_a_maximum_pooling_can_be_left_out() -> None:
    with pytest.raises(InputError, match=r"max_pool false.*mobilenet_v3_small, which has 0"):
        plain_network("mobilenet_v3_small", max_pool=False)


def test_without_timm_its_networks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"timm:resnet18 needs timm.*salmask\[timm\]"):
        check_architecture("timm:resnet18")


def test_timm_networks() -> None:
    pytest.importorskip("timm", reason="the extra timm is not installed")
    network, feature_dim = plain_network("timm:test_resnet", max_pool=False)
    assert network.training
    assert network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, feature_dim)
    assert stem_name(network) == "conv1.0"
    with pytest.raises(InputError, match=r"no 'resnet19'.*resnet18"):
        plain_network("timm:resnet19")
    with pytest.raises(InputError, match=r"vit_tiny.*does not take views of 128.*ConvNet"):
        plain_network("timm:vit_tiny_patch16_224")
