"""A method's step never waits for the device: on fake tensors, reading a value raises."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from training.draws import View
from training.encoder import Backbone
from training.inputs import EncoderInputs
from training.methods.byol import BYOL, BYOLConfig
from training.methods.interface import Method, Moment
from training.methods.moco import MoCoConfig, MoCoV2
from training.methods.simclr import SimCLR, SimCLRConfig

BATCH, SIZE = 8, 16
HARD = {"hard_negatives": 2, "prime_weights": True, "batch_norm_group": 4}


def methods() -> dict[str, Method]:
    def backbone() -> Backbone:
        network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
        return Backbone(nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 5)

    size = {"batch_size": BATCH, "seed": 0}
    moco = MoCoConfig(queue_size=16, **HARD)  # type: ignore[arg-type]
    simclr = SimCLRConfig(**HARD)  # type: ignore[arg-type]
    with_gradient = SimCLRConfig(negative_gradient=True, **HARD)  # type: ignore[arg-type]
    byol = BYOLConfig(batch_norm_group=4, head_width=8, predictor_width=8)
    return {
        "moco_v2": MoCoV2(moco, backbone(), **size),
        "simclr": SimCLR(simclr, backbone(), **size),
        "simclr with gradient": SimCLR(with_gradient, backbone(), **size),
        "byol": BYOL(byol, backbone(), **size),
    }


@pytest.mark.parametrize("name", ["moco_v2", "simclr", "simclr with gradient", "byol"])
@pytest.mark.parametrize("negatives", [1, BATCH])
def test_a_step_reads_nothing_back(name: str, negatives: int) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        method = methods()[name].to("cuda")
        images = torch.empty(BATCH, 3, SIZE, SIZE, device="cuda")
        cut = (images[:negatives], images[:negatives])
        marked = torch.empty(2, BATCH, 1, 1, dtype=torch.bool, device="cuda")
        hard = {} if name == "byol" else {View.KEY: cut, View.QUERY: cut}
        inputs = EncoderInputs(images, images, hard, marked, {}, {})
        result = method.step(inputs, encode=method.trained, moment=Moment(3, 10, 100))
        result.loss.backward()  # type: ignore[no-untyped-call]
        assert result.loss.device.type == "cuda"
        assert all(value.device.type == "cuda" for value in result.metrics.values())
        with pytest.raises(Exception, match=r"aten\."):
            result.loss.item()
