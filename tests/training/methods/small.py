"""A tiny double-precision network, methods on it and their inputs; and ranks of them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.ranks import in_ranks
from training.core.schedules import Moment
from training.encoders.encoder import Backbone
from training.methods.interface import Method
from training.methods.registry import find_method
from training.methods.settings import MethodConfig
from training.views.fills import fill_named
from training.views.inputs import EncoderInputs
from training.views.settings import MaskConfig, ViewConfig
from training.views.spec import ViewSettings

BATCH, GROUP, STEP = 8, 2, 5
MOMENT = Moment(step=STEP, steps_per_epoch=10, total_steps=100)

Scenario = tuple[Method, EncoderInputs]


def small_backbone() -> Backbone:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return Backbone(network, 5)


def small_method(config: MethodConfig) -> Any:  # noqa: ANN401  (of the class that it names)
    """A method in mid-run: a momentum encoder differs from its source."""
    method = find_method(config.name)(config, small_backbone(), batch_size=BATCH, seed=1).double()
    with torch.no_grad():
        for name in ("key_encoder", "target"):
            for parameter in getattr(method, name, nn.Module()).parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def small_inputs(config: MethodConfig, *, local: int = 0) -> EncoderInputs:
    """Random images of 8 px for all declared views, and of 6 px for local crops."""
    cut = ViewConfig(size=8, grid=4, local=local, local_size=6)
    settings = ViewSettings(cut=cut, masks=MaskConfig(), fill=fill_named("mean"))
    generator, views = torch.Generator().manual_seed(7), {}
    for view in find_method(config.name).views(config, settings):
        shape = (BATCH, 3, view.crop.cut.size, view.crop.cut.size)
        views[view.name] = torch.randn(shape, generator=generator, dtype=torch.float64)
    return EncoderInputs(views, {}, {}, {})


def weighted(inputs: EncoderInputs) -> EncoderInputs:
    """The inputs with two images, of different ranks, that count nothing in the loss."""
    weights = torch.ones(BATCH, dtype=torch.float64)
    weights[[1, 6]] = 0
    return inputs._replace(weights_B=weights / weights.mean())


def step_of(scenario: Scenario, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """Loss, metrics, gradients and buffers of one step of a rank's share of a global batch."""
    method, inputs = scenario

    def mine(images: Tensor) -> Tensor:
        return images.chunk(world_size)[rank]

    share = inputs._replace(
        views={name: mine(images) for name, images in inputs.views.items()},
        weights_B=None if inputs.weights_B is None else mine(inputs.weights_B),
    )
    encode = method.trained
    wrapped = DistributedDataParallel(encode, broadcast_buffers=False) if world_size > 1 else encode
    result = method.step(share, encode=wrapped, moment=MOMENT)
    result.loss.backward()
    return {
        "loss": result.loss.detach(),
        "metrics": result.metrics,
        "gradients": {name: p.grad for name, p in method.trained.named_parameters()},
        "buffers": dict(method.named_buffers()),
    }


def _in_rank(
    rank: int, world_size: int, folder: str, make: Callable[[], dict[str, Scenario]]
) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "USE_LIBUV": "0"}
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
    )
    results = {name: step_of(scenario, rank, world_size) for name, scenario in make().items()}
    torch.save(results, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def assert_ranks_are_one_process(
    make: Callable[[], dict[str, Scenario]], world_size: int, folder: Path
) -> None:
    """Loss, metrics, gradients and queue of real gloo processes equal those of one process."""
    in_ranks(_in_rank, world_size, world_size, str(folder), make)
    ranks = [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(world_size)]
    for name, scenario in make().items():
        alone = step_of(scenario)
        own = [r[name] for r in ranks]
        mean_loss = torch.stack([r["loss"] for r in own]).mean()
        torch.testing.assert_close(mean_loss, alone["loss"], msg=lambda m: f"{name}: {m}")  # noqa: B023
        for metric, value in alone["metrics"].items():
            over_ranks = torch.stack([r["metrics"][metric] for r in own]).mean()
            torch.testing.assert_close(over_ranks, value)
        queues = [buffer for buffer in alone["buffers"] if "queue" in buffer]
        for r in own:
            torch.testing.assert_close(r["gradients"], alone["gradients"])
            for buffer in queues:
                torch.testing.assert_close(r["buffers"][buffer], alone["buffers"][buffer])
