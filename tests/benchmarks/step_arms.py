"""Training steps that the step benchmark compares: each arm has a method and optimiser of its own.

All arms encode a query, a key and a negative; without masks the negative is an unmasked copy.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50
from training.views.masks import hard_negative_mask, view_mask

from pipeline.saliency.foreground import foreground
from tests.training.views.made import built, settings_of, views_of
from training.config.settings import OptimConfig
from training.core.schedules import Moment
from training.encoders.encoder import build_backbone
from training.encoders.settings import EncoderConfig
from training.engine.optim import build_optimiser
from training.methods.moco.method import MoCoV2
from training.methods.moco.settings import MoCoConfig
from training.views.fills import UnmaskedView, filled, mean_values
from training.views.host_batch import HostBatch
from training.views.inputs import EncoderInputs, to_device

NEGATIVE = "negative-key-0"
ARMS = ("no masks", "precomputed", "localiser", "no negative")


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """How large a step is: the paper's on a GPU, one that ends in minutes on a CPU."""

    view_size: int
    grid: int
    batch_size: int
    precision: torch.dtype | None
    queue_size: int = 4096


class Localiser(nn.Module):
    """The paper's way to saliency: a frozen ResNet-50's last feature map, summed over channels."""

    def __init__(self) -> None:
        super().__init__()
        network = resnet50(weights=None)  # what it says does not change what it costs
        self.trunk = nn.Sequential(*list(network.children())[:-2]).eval().requires_grad_(False)

    def forward(self, views_BCHW: Tensor, grid: int) -> Tensor:
        """Saliency per patch, in [0, 1]: [B, G, G]."""
        maps_BHW = self.trunk(views_BCHW).float().sum(dim=1)
        maps_BGG = functional.interpolate(maps_BHW[:, None], size=(grid, grid))[:, 0]
        return maps_BGG / maps_BGG.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)


class StepArm:
    """One arm: MoCo v2 with ResNet-50, mean fill, one hard negative."""

    def __init__(self, name: str, size: StepSize, device: torch.device) -> None:
        assert name in ARMS, name
        torch.manual_seed(0)
        self.name, self.size, self.device = name, size, device
        config = MoCoConfig(queue_size=size.queue_size, batch_norm_group=None)
        backbone = build_backbone(EncoderConfig(architecture="resnet50"))
        self.method = MoCoV2(config, backbone, batch_size=size.batch_size, seed=0)
        self.method.to(device).to(memory_format=torch.channels_last)
        self.optimiser = build_optimiser(OptimConfig(), self.method.trained, device)
        self.localiser = Localiser().to(device).to(memory_format=torch.channels_last)
        self.number = 0

    def autocast(self) -> AbstractContextManager[None]:
        wanted = self.size.precision
        return torch.autocast(self.device.type, wanted, enabled=wanted is not None)

    def step(self, host_batch: HostBatch) -> None:
        batch = to_device(host_batch, self.device)
        inputs = getattr(self, "_" + self.name.replace(" ", "_"))(batch)
        with self.autocast():
            moment = Moment(self.number, 100, 10_000)
            result = self.method.step(inputs, encode=self.method.trained, moment=moment)
        self.optimiser.zero_grad(set_to_none=True)
        result.loss.backward()
        self.optimiser.step()
        self.number += 1

    def _no_negative(self, batch: HostBatch) -> EncoderInputs:
        return self._inputs(batch, "none", negatives=0)

    def _no_masks(self, batch: HostBatch) -> EncoderInputs:
        inputs = self._no_negative(batch)
        return inputs._replace(views=inputs.views | {NEGATIVE: inputs.views["key"].clone()})

    def _precomputed(self, batch: HostBatch) -> EncoderInputs:
        return self._inputs(batch, "balanced", negatives=1)

    def _inputs(self, batch: HostBatch, strategy: str, *, negatives: int) -> EncoderInputs:
        size = self.size
        settings = settings_of(size=size.view_size, grid=size.grid, strategy=strategy)
        return built(batch, views_of(settings, of_key=negatives), settings)

    @torch.no_grad()
    def _localiser(self, batch: HostBatch) -> EncoderInputs:
        """Both augmented views through the localiser, then masks as ever."""
        bare, size = self._no_negative(batch), self.size
        query_BCHW, key_BCHW = bare.views["query"], bare.views["key"]
        with self.autocast():
            maps = [self.localiser(view, size.grid) for view in (query_BCHW, key_BCHW)]
        query_BGG, key_BGG = (foreground(one) for one in maps)
        query_mask = view_mask(
            query_BGG,
            maps[0],
            batch.masks["query"],
            strategy="balanced",
            view_size=size.view_size,
            high_pass=False,
        )
        key_mask = hard_negative_mask(
            key_BGG, batch.masks[NEGATIVE], view_size=size.view_size, high_pass=False
        )
        masked = {
            "query": _mean_filled(query_BCHW, query_mask),
            NEGATIVE: _mean_filled(key_BCHW, key_mask),
        }
        return bare._replace(views=bare.views | masked)


def _mean_filled(view_BCHW: Tensor, mask_BCHW: Tensor) -> Tensor:
    values = mean_values(UnmaskedView(view_BCHW, view_BCHW, lambda: view_BCHW))
    return filled(view_BCHW, values, mask_BCHW)


class Clock(NamedTuple):
    """A clock for a device: CPU time of the process on a CPU, the wall's on a GPU."""

    name: str
    now: Callable[[], float]


def clock(device: torch.device) -> Clock:
    """CPU time is not disturbed by other processes; a GPU works while the CPU waits."""
    if device.type == "cpu":
        return Clock("CPU time of one thread", time.process_time)

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return Clock("wall time", now)
