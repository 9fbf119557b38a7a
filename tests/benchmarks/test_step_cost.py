"""What masks cost a step: from stored saliency, and from a localiser at every step.

On a GPU also how fast the full method trains at 224 px, how long it waits for data, and how much of
the device's matrix rate it uses.
"""

import os
import platform
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.memory import keep_freed_memory
from pipeline.shardset.manifest import DatasetInfo
from tests.benchmarks.step_arms import ARMS, StepArm, StepSize, clock
from tests.shard_sets import write_images
from tests.training.views.made import dataset_of, settings_of, views_of
from training.config.pretrain import PretrainConfig
from training.data.stream import BatchDataset
from training.engine.local import launch
from training.record.metrics import read_metrics

pytestmark = pytest.mark.benchmark

MAX_COST = 1.05
GPU = torch.cuda.is_available()
SIZE = (
    StepSize(view_size=224, grid=7, batch_size=256, precision=torch.bfloat16, queue_size=65536)
    if GPU
    else StepSize(view_size=64, grid=8, batch_size=16, precision=None)
)
ROUNDS = 30 if GPU else 7
ENCODER_FORWARDS = 5
"""Of the query, the key and the negative; the query's backward pass counts as two."""
RESNET50_FLOP = 2 * 4.09e9
"""Of one forward pass at 224 px; a multiplication and an addition are two."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures(root: Path, count: int) -> DatasetInfo:
    """Pictures of the size of ImageNet's, smooth with some noise, as JPEGs do not shrink noise."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(375), np.arange(500))[..., None] * np.array([1, 2, 3]) // 8
    images = [
        ((ramp + rng.integers(0, 24, size=(375, 500, 1)) + 7 * i) % 256).astype(np.uint8)
        for i in range(count)
    ]
    maps = [np.asarray(rng.random((56, 56)), dtype=np.float32) for _ in range(count)]
    return write_images(root, images, [0] * count, saliency=maps, shard_images=64, ext="jpg")


def batches(root: Path) -> BatchDataset:
    views = views_of(settings_of(size=SIZE.view_size, grid=SIZE.grid))
    return dataset_of(root, views, seed=0, batch_size=SIZE.batch_size)


def test_masks_from_stored_saliency_cost_next_to_nothing(tmp_path: Path) -> None:
    device = torch.device("cuda" if GPU else "cpu")
    pictures(tmp_path, 2 * SIZE.batch_size)
    batch = batches(tmp_path)[0]
    arms = {name: StepArm(name, SIZE, device) for name in ARMS}
    watch = clock(device)
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    for number in range(ROUNDS + 2):
        # In turns, and no arm always behind the same other.
        order = ARMS[number % len(ARMS) :] + ARMS[: number % len(ARMS)]
        for name in order:
            start = watch.now()
            arms[name].step(batch)
            if number >= 2:
                times[name].append(watch.now() - start)
    print(
        f"\nA step of MoCo v2 with ResNet-50, {SIZE.view_size} px, batch {SIZE.batch_size}, "
        f"{SIZE.precision or torch.float32}, {watch.name}, {ROUNDS} rounds, loading not counted: "
        f"{torch.cuda.get_device_name() if GPU else platform.machine()}, torch {torch.__version__}"
    )
    base = times["no masks"]
    ratios = {}
    for name, values in times.items():
        # Pairs of one round saw the same machine.
        ratios[name] = statistics.median(a / b for a, b in zip(values, base, strict=True))
        print(
            f"  {name:<12} {statistics.median(values) * 1e3:9.1f} ms ({min(values) * 1e3:.1f} to "
            f"{max(values) * 1e3:.1f}), {ratios[name]:.3f} of no masks"
        )
    gain = ratios["localiser"] / ratios["precomputed"]
    print(f"  a localiser at every step takes {gain:.2f} times as long as stored saliency")
    print(f"  the negative's own forward pass: {1 - ratios['no negative']:.0%} of a step")
    assert ratios["precomputed"] <= MAX_COST
    assert ratios["localiser"] > ratios["precomputed"]


@pytest.mark.skipif(not GPU, reason="no GPU")
def test_the_full_method_on_a_gpu(tmp_path: Path) -> None:
    num_images, epochs = 16 * SIZE.batch_size, 6
    pictures(tmp_path / "shards", num_images)
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    watch, rates = clock(torch.device("cuda")), []
    for _ in range(20):
        start = watch.now()
        matrix @ matrix
        rates.append(2 * 8192**3 / (watch.now() - start))
    rate = statistics.median(rates)
    config = PretrainConfig(
        shards=tmp_path / "shards",
        out=tmp_path / "out",
        epochs=epochs,
        batch_size=SIZE.batch_size,
        loader_workers=max(1, len(os.sched_getaffinity(0)) - 1),
        log_every_steps=8,
    )
    assert launch(config).finished
    entries = [e for e in read_metrics(config.out) if e["kind"] == "train"][4:]  # warmed up
    speed = statistics.median(float(e["images_per_second"]) for e in entries)
    waiting = statistics.median(float(e["data_wait_share"]) for e in entries)
    used = speed * ENCODER_FORWARDS * RESNET50_FLOP / rate
    print(
        f"\nMoCo v2 with masks and a hard negative, ResNet-50, {SIZE.view_size} px, bf16, "
        f"{config.loader_workers} loading processes: {speed:.0f} images/s, {waiting:.1%} waiting "
        f"for data, {used:.1%} of the {rate / 1e12:.0f} TFLOP/s of an 8192 matrix product"
    )
    assert speed > 0
