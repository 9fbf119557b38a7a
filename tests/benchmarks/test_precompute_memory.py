"""Peak memory of precompute: the driver at two numbers of images, workers with 256 MiB shards."""

import json
import os
import subprocess
import sys
import threading
from contextlib import redirect_stdout, suppress
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import ray

from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.ray_job import build_on_ray
from pipeline.precompute.run import run_precompute
from tests.benchmarks.timing import machine

pytestmark = pytest.mark.benchmark

ROOT = Path(__file__).resolve().parents[2]
FEW, MANY = 600, 6_000
MAX_DRIVER_GROWTH_MIB = 32.0
"""Ten times the shards: their records, one each, and what an allocator does not give back."""
MAX_WORKER_MIB = 1536.0
LARGE_SHARD_MIB = 200.0
DISTINCT, LINKS = 16, 14
HEIGHT, WIDTH = 3000, 4000


def measure(data: str, out: str, saliency: str, shard_images: str) -> dict[str, float]:
    """Run a job in this process; peaks in MiB of it and of what makes the shards.

    Looks several times a second: what a process has reached at its end may be missed by a little.
    """
    cores = len(os.sched_getaffinity(0))
    ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
    peaks = {"driver": 0.0, "ray::": 0.0, "pipeline.core.child_process": 0.0}
    ended, own = threading.Event(), psutil.Process()

    def watch() -> None:
        while not ended.wait(0.2):
            for process in [own, *own.children(recursive=True)]:
                with suppress(psutil.Error, OSError, StopIteration):
                    command = "driver" if process == own else " ".join(process.cmdline())
                    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                    peak = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
                    for kind in peaks:
                        if kind in command:
                            peaks[kind] = max(peaks[kind], int(peak) / 1024)

    watching = threading.Thread(target=watch)
    watching.start()
    config = PrecomputeConfig(data=data, out=out, saliency=saliency, shard_images=int(shard_images))
    info = run_precompute(config, build_on_ray)
    ended.set()
    watching.join()
    largest = max(shard.num_bytes for shard in info.shards) / (1 << 20)
    return {"images": info.num_images, "largest shard": largest, **peaks}


def peaks(data: Path, out: Path, saliency: str, shard_images: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.test_precompute_memory"]
    done = subprocess.run(
        [*command, str(data), str(out), saliency, str(shard_images)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, float] = json.loads(done.stdout)
    print(f"\n{saliency}: {machine('ray')}")
    for name, value in figures.items():
        print(f"  {name:<28} {value:8.0f} {'' if name == 'images' else 'MiB'}")
    return figures


def worst(figures: dict[str, float]) -> float:
    """Peak of a process that makes shards; each must have been seen."""
    found = [figures["ray::"], figures["pipeline.core.child_process"]]
    assert min(found) > 0
    return max(found)


def test_driver_does_not_grow(shared_data: Path, tmp_path: Path) -> None:
    photographs = sorted((shared_data / "imagenette160").rglob("*.jpg"))
    drivers = []
    for count in (FEW, MANY):
        data = tmp_path / f"{count}.txt"
        data.write_text("".join(f"{path}\n" for path in photographs[:count]))
        figures = peaks(data, tmp_path / f"out-{count}", "uniform", 64)
        assert figures["images"] == count
        drivers.append(figures["driver"])
    assert drivers[1] - drivers[0] <= MAX_DRIVER_GROWTH_MIB


def test_worker_with_large_photographs(tmp_path: Path) -> None:
    """Twelve megapixels each, as cameras make them."""
    folder = tmp_path / "data"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(DISTINCT):
        coarse = generator.integers(0, 256, (30, 40, 3), np.uint8)
        picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        grain = generator.integers(0, 24, (HEIGHT, WIDTH, 1), np.uint8)
        path = folder / f"{number:02d}-00.jpg"
        assert cv2.imwrite(str(path), cv2.add(picture, np.repeat(grain, 3, axis=2)))
        for link in range(1, LINKS):
            (folder / f"{number:02d}-{link:02d}.jpg").hardlink_to(path)
    figures = peaks(folder, tmp_path / "out", "boundary", 1_000_000)
    assert figures["largest shard"] >= LARGE_SHARD_MIB
    assert worst(figures) <= MAX_WORKER_MIB


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        measured = measure(*sys.argv[1:])
    print(json.dumps(measured))
