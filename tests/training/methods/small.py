"""A tiny double-precision network and its inputs, for tests of methods; and ranks of them."""

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
from training.views.inputs import EncoderInputs

BATCH, GROUP, STEP = 8, 2, 5
MOMENT = Moment(step=STEP, steps_per_epoch=10, total_steps=100)

Scenario = tuple[Method, EncoderInputs]


def small_backbone() -> Backbone:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return Backbone(network, 5)


def make_images(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    shape = (BATCH, 3, 8, 8)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def as_inputs(
    query: Tensor,
    key: Tensor,
    *,
    of_key: tuple[Tensor, ...] = (),
    of_query: tuple[Tensor, ...] = (),
    exchanged: Tensor | None = None,
) -> EncoderInputs:
    """Views as methods declare them, of images."""
    views = {"query": query, "key": key}
    for source, cut in (("key", of_key), ("query", of_query)):
        views |= {f"negative-{source}-{index}": image for index, image in enumerate(cut)}
    if exchanged is not None:
        views["exchanged"] = exchanged
    return EncoderInputs(views, {}, {}, {})


def weighted(inputs: EncoderInputs) -> EncoderInputs:
    """The inputs with two images, of different ranks, that count nothing in the loss."""
    weights = torch.ones(BATCH, dtype=torch.float64)
    weights[[1, 6]] = 0
    return inputs._replace(weights_B=weights / weights.mean())


def share_of(inputs: EncoderInputs, rank: int, world_size: int) -> EncoderInputs:
    """One rank's share of a global batch."""

    def mine(images: Tensor) -> Tensor:
        return images.chunk(world_size)[rank]

    return inputs._replace(
        views={name: mine(images) for name, images in inputs.views.items()},
        weights_B=None if inputs.weights_B is None else mine(inputs.weights_B),
    )


def step_of(scenario: Scenario, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """Loss, metrics, gradients and buffers of one step."""
    method, inputs = scenario
    encode = method.trained
    wrapped = DistributedDataParallel(encode, broadcast_buffers=False) if world_size > 1 else encode
    result = method.step(share_of(inputs, rank, world_size), encode=wrapped, moment=MOMENT)
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


def steps_of_ranks(
    make: Callable[[], dict[str, Scenario]], world_size: int, folder: Path
) -> list[dict[str, dict[str, Any]]]:
    """The steps of every scenario in real gloo processes, rank by rank."""
    folder.mkdir()
    in_ranks(_in_rank, world_size, world_size, str(folder), make)
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(world_size)]


def assert_ranks_are_one_process(
    make: Callable[[], dict[str, Scenario]], world_size: int, folder: Path
) -> None:
    """Loss, metrics, gradients and queue of many ranks equal those of one process."""
    ranks = steps_of_ranks(make, world_size, folder)
    for name, scenario in make().items():
        alone = step_of(scenario)
        mean_loss = torch.stack([r[name]["loss"] for r in ranks]).mean()
        torch.testing.assert_close(mean_loss, alone["loss"], msg=lambda m: f"{name}: {m}")  # noqa: B023
        for metric, value in alone["metrics"].items():
            over_ranks = torch.stack([r[name]["metrics"][metric] for r in ranks]).mean()
            torch.testing.assert_close(over_ranks, value)
        for r in ranks:
            for parameter, gradient in alone["gradients"].items():
                torch.testing.assert_close(r[name]["gradients"][parameter], gradient)
            for buffer, value in alone["buffers"].items():
                if "queue" in buffer:
                    torch.testing.assert_close(r[name]["buffers"][buffer], value)
