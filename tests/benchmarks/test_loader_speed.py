"""How fast one core makes views, beside the usual per-sample pipelines, in one run.

CPU time of one thread, so that a busy machine changes little; arms take turns, batch by batch.
Print it with ``make bench`` or ``pytest -s``; lightly is measured where it is installed.

Which targets are missed, at 500 x 375 on one core of a virtual Xeon (2.6 GHz, AVX-512), whose
memory is faster at some times than at others; five runs, ms an image:

- the loader, 1.57 to 1.78: decoding takes 0.92 to 0.98, the two antialiased crops 0.49 to 0.58, and
  0.16 to 0.21 are left for reading, saliency, draws and collation, most of it the cache's misses.
  8 times the usual pipeline (5.7 to 6.2 are reached) is out of reach: decoding and the crops alone,
  printed as the bound, are 6.5 to 6.9 times. So is 0.6 of decoding, by a little (0.55 to 0.59, the
  bound is 0.63 to 0.65): it would leave 0.1 or less for all else.
- all of it with high-pass, 3.8 to 4.3, is 3.97 to 4.15 times: once a hair under, on a slow minute.
"""

import platform
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import PIL
import pytest
import torch
import torchvision

from pipeline.core.memory import keep_freed_memory
from pipeline.shardset.reader import ShardSetReader
from tests.benchmarks.loader_arms import (
    Arm,
    decode_and_cut,
    decode_only,
    our_dataset,
    our_inputs,
    photographs,
    smooth_maps,
    usual_arms,
)
from tests.shard_sets import write_images

pytestmark = pytest.mark.benchmark

BATCH, ROUNDS = 32, 11
PICTURES = {
    "500 x 375": ("detection_coco128/JPEGImages", 96, (500, 375)),
    "160 px": ("imagenette160/train", 192, (160, 160)),
}
FILLS = {"plain": "mean", "high-pass": "high_pass", "strong blur": "blur"}
TARGETS = {
    "loader over usual, plain": 8.0,
    "loader over decode alone": 0.6,
    "all over usual, plain": 2.5,
    "all over usual, high-pass": 4.0,
    "all over usual, strong blur": 10.0,
}
"""On a machine that has nothing else to do; a busy one slows what goes through the memory, which
are our arms, more than what counts in a core's cache, which are the others."""
FLOOR = 0.6
"""Share of each target that is held on any machine."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    keep_freed_memory()  # as the training loop does; the usual pipelines profit too
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def measure(arms: dict[str, Arm]) -> dict[str, float]:
    """Medians of milliseconds per image, arms in turns; prints them with their spread."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(ROUNDS + 1):
        for name, arm in arms.items():
            start = time.process_time()
            arm(number)
            if number:  # the first batch warms up
                times[name].append((time.process_time() - start) / BATCH * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(
            f"  {name:<26} {medians[name]:7.3f} ms/image ({min(values):.3f} to {max(values):.3f})"
            f"  {1e3 / medians[name]:6.0f} images/s"
        )
    return medians


@pytest.mark.parametrize("kind", PICTURES)
def test_one_core_makes_views(shared_data: Path, tmp_path: Path, kind: str) -> None:
    folder, count, size = PICTURES[kind]
    images = photographs(shared_data / folder, count, size)
    labels = [0] * count
    info = write_images(
        tmp_path, images, labels, saliency=smooth_maps(count), shard_images=64, ext="jpg"
    )
    reader = ShardSetReader(tmp_path, info)
    jpegs = [bytes(reader.read(i).image) for i in range(count)]
    dataset = our_dataset(tmp_path, BATCH)
    kib = statistics.fmean(map(len, jpegs)) / 1024
    print(
        f"\nTwo views of 224 px from {kind} JPEGs ({kib:.0f} KiB), one thread's CPU time, batch "
        f"{BATCH}, {ROUNDS} rounds: {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, OpenCV "
        f"{cv2.__version__}, Pillow {PIL.__version__}"
    )
    usual = usual_arms(jpegs, BATCH)
    figures = measure(
        {
            "decode alone": partial(decode_only, jpegs, BATCH),
            "decode and crops alone": partial(decode_and_cut, jpegs, BATCH),
            "our loader": dataset.__getitem__,
            **{f"ours, {n}": partial(our_inputs, dataset, fill) for n, fill in FILLS.items()},
            **{f"usual, {name}": arm for name, arm in usual.items()},
        }
    )
    loader, plain = figures["our loader"], figures["usual, plain"]
    reached = {"loader over usual, plain": plain / loader}
    if kind == "500 x 375":
        reached["loader over decode alone"] = figures["decode alone"] / loader
    for name in FILLS:
        reached[f"all over usual, {name}"] = figures[f"usual, {name}"] / figures[f"ours, {name}"]
    for name, gain in reached.items():
        met = "met" if gain >= TARGETS[name] else "MISSED"
        print(f"  {name:<28} {gain:5.2f} x, target {TARGETS[name]:.1f}: {met}")
    bound = figures["decode and crops alone"]
    print(
        f"  bound of the loader, from decode and crops alone: {plain / bound:.2f} x usual, plain, "
        f"{figures['decode alone'] / bound:.2f} x decode alone"
    )
    if "lightly" in usual:
        theirs = figures["usual, lightly"]
        all_of_it = theirs / figures["ours, plain"]
        print(f"  lightly: loader {theirs / loader:.1f} x, all on one core {all_of_it:.1f} x")
    else:
        print("  lightly is not installed: not measured")
    for name, gain in reached.items():
        assert gain >= FLOOR * TARGETS[name], name
