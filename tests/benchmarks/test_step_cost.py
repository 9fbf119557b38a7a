"""What masks cost a step: from stored saliency, and from a localiser at every step.

All arms encode a query, a key and a negative; without masks the negative is an unmasked copy.
"""

import statistics
import time
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50

from pipeline.saliency.foreground import foreground
from tests.benchmarks.timing import in_turns, machine, show_medians
from tests.shard_sets import write_images
from tests.training.views.made import built, dataset_of, settings_of, views_of
from training.config.settings import OptimConfig
from training.core.schedules import Moment
from training.encoders.encoder import build_backbone
from training.encoders.settings import EncoderConfig
from training.engine.optimisers import build_optimiser
from training.methods.moco.method import MoCoV2
from training.methods.moco.settings import MoCoConfig
from training.views.fills import UnmaskedView, filled, mean_values
from training.views.inputs import EncoderInputs, HostBatch, to_device
from training.views.maskers import MaskerInputs

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

MAX_COST = 1.05
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
# The paper's step on a GPU, one that ends in minutes on a CPU.
SIZE, GRID, BATCH, QUEUE, ROUNDS = (224, 7, 256, 65536, 30) if GPU else (64, 8, 16, 4096, 7)
PRECISION = torch.bfloat16 if GPU else None
NEGATIVE = "negative-key-0"
ARMS = ("no masks", "precomputed", "localiser", "no negative")


class Localiser(nn.Module):
    """The paper's way to saliency: a frozen ResNet-50's last feature map, summed over channels."""

    def __init__(self) -> None:
        super().__init__()
        network = resnet50(weights=None)  # what it says does not change what it costs
        self.trunk = nn.Sequential(*list(network.children())[:-2]).eval().requires_grad_(False)

    def forward(self, views_BCHW: Tensor) -> Tensor:
        """Saliency per patch, in [0, 1]: [B, G, G]."""
        maps_BHW = self.trunk(views_BCHW).float().sum(dim=1)
        maps_BGG = functional.interpolate(maps_BHW[:, None], size=(GRID, GRID))[:, 0]
        return maps_BGG / maps_BGG.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)


class Arm:
    """MoCo v2 with ResNet-50, mean fill, one hard negative; a method and optimiser of its own."""

    def __init__(self, name: str, host_batch: HostBatch) -> None:
        torch.manual_seed(0)
        self.name, self.host_batch = name, host_batch
        config = MoCoConfig(queue_size=QUEUE, batch_norm_group=None)
        backbone = build_backbone(EncoderConfig(architecture="resnet50"))
        self.method = MoCoV2(config, backbone, batch_size=BATCH, seed=0)
        self.method.to(DEVICE).to(memory_format=torch.channels_last)
        self.optimiser = build_optimiser(OptimConfig(), self.method.trained, DEVICE)
        self.localiser = Localiser().to(DEVICE).to(memory_format=torch.channels_last)

    def step(self, number: int) -> None:
        inputs = self.inputs(to_device(self.host_batch, DEVICE))
        with autocast():
            moment = Moment(number, 100, 10_000)
            result = self.method.step(inputs, encode=self.method.trained, moment=moment)
        self.optimiser.zero_grad(set_to_none=True)
        result.loss.backward()
        self.optimiser.step()

    def inputs(self, batch: HostBatch) -> EncoderInputs:
        strategy = "balanced" if self.name == "precomputed" else "none"
        settings = settings_of(size=SIZE, grid=GRID, strategy=strategy)
        made = built(batch, views_of(settings, of_key=int(strategy == "balanced")), settings)
        if self.name == "no masks":
            return made._replace(views=made.views | {NEGATIVE: made.views["key"].clone()})
        return self.localised(batch, made) if self.name == "localiser" else made

    @torch.no_grad()
    def localised(self, batch: HostBatch, bare: EncoderInputs) -> EncoderInputs:
        """Both augmented views through the localiser, then masks as ever."""
        views = views_of(settings_of(size=SIZE, grid=GRID, strategy="balanced"))
        masked = {}
        for view in (views[0], views[2]):
            image = bare.views[view.crop.name]
            with autocast():
                saliency = self.localiser(image)
            inputs = MaskerInputs(foreground(saliency), saliency, SIZE, None)
            assert view.masker is not None
            masked[view.name] = mean_filled(image, view.masker.mask(batch.masks[view.name], inputs))
        return bare._replace(views=bare.views | masked)


def autocast() -> AbstractContextManager[None]:
    return torch.autocast(DEVICE.type, PRECISION, enabled=PRECISION is not None)


def mean_filled(view_BCHW: Tensor, mask_BCHW: Tensor) -> Tensor:
    values = mean_values(UnmaskedView(view_BCHW, view_BCHW, lambda: view_BCHW))
    return filled(view_BCHW, values, mask_BCHW)


def smooth_images(count: int) -> list[NDArray[np.uint8]]:
    """Pictures of the size of ImageNet's, smooth with some noise, as JPEGs do not shrink noise."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(375), np.arange(500))[..., None] * np.array([1, 2, 3]) // 8
    return [
        ((ramp + rng.integers(0, 24, size=(375, 500, 1)) + 7 * i) % 256).astype(np.uint8)
        for i in range(count)
    ]


def host_batch(root: Path) -> HostBatch:
    images, rng = smooth_images(BATCH), np.random.default_rng(1)
    maps = [np.asarray(rng.random((56, 56)), dtype=np.float32) for _ in images]
    write_images(root, images, [0] * BATCH, saliency=maps, shard_images=64, ext="jpg")
    views = views_of(settings_of(size=SIZE, grid=GRID))
    return dataset_of(root, views, seed=0, batch_size=BATCH)[0]


def now() -> float:
    """CPU time is not disturbed by other processes; a GPU works while the CPU waits."""
    if not GPU:
        return time.process_time()
    torch.cuda.synchronize(DEVICE)
    return time.perf_counter()


def test_masks_from_stored_saliency_cost_next_to_nothing(tmp_path: Path) -> None:
    batch = host_batch(tmp_path)
    times = in_turns({name: Arm(name, batch).step for name in ARMS}, ROUNDS, now=now)
    print(
        f"\nA step of MoCo v2 with ResNet-50, {SIZE} px, batch {BATCH}, "
        f"{PRECISION or torch.float32}, {'wall time' if GPU else 'CPU time of one thread'}, "
        f"{ROUNDS} rounds, loading not counted: "
        f"{torch.cuda.get_device_name() if GPU else machine('torch')}"
    )
    show_medians(times, "ms", 1e3)
    ratios = {
        # Pairs of one round saw the same machine.
        name: statistics.median(a / b for a, b in zip(values, times["no masks"], strict=True))
        for name, values in times.items()
    }
    for name, ratio in ratios.items():
        print(f"  {name:<12} {ratio:.3f} of no masks")
    gain = ratios["localiser"] / ratios["precomputed"]
    print(f"  a localiser at every step takes {gain:.2f} times as long as stored saliency")
    print(f"  the negative's own forward pass: {1 - ratios['no negative']:.0%} of a step")
    assert ratios["precomputed"] <= MAX_COST
    assert ratios["localiser"] > ratios["precomputed"]
