"""Peak memory of precompute: the driver at two numbers of images, workers with 256 MiB shards."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import ray

pytestmark = pytest.mark.benchmark

ROOT = Path(__file__).resolve().parents[2]
FEW, MANY = 600, 6_000
MAX_DRIVER_GROWTH_MIB = 32.0
"""Ten times the shards: their records, one each, and what an allocator does not give back."""
MAX_WORKER_MIB = 1536.0
LARGE_SHARD_MIB = 200.0
DISTINCT, LINKS = 16, 14
HEIGHT, WIDTH = 3000, 4000


def peaks(data: Path, out: Path, saliency: str, shard_images: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.precompute_memory"]
    done = subprocess.run(
        [*command, str(data), str(out), saliency, str(shard_images)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, float] = json.loads(done.stdout)
    print(
        f"\n{saliency}: {platform.machine()}, {platform.system()}, "
        f"Python {platform.python_version()}, ray {ray.__version__}, OpenCV {cv2.__version__}"
    )
    for name, value in figures.items():
        print(f"  {name:<22} {value:8.0f}")
    return figures


def test_driver_does_not_grow(shared_data: Path, tmp_path: Path) -> None:
    photographs = sorted((shared_data / "imagenette160").rglob("*.jpg"))
    drivers = []
    for count in (FEW, MANY):
        data = tmp_path / f"{count}.txt"
        data.write_text("".join(f"{path}\n" for path in photographs[:count]))
        figures = peaks(data, tmp_path / f"out-{count}", "uniform", 64)
        assert figures["images"] == count
        drivers.append(figures["driver MiB"])
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
    assert figures["largest shard MiB"] >= LARGE_SHARD_MIB
    assert max(figures["worst child MiB"], figures["worst Ray worker MiB"]) <= MAX_WORKER_MIB


def test_worker_with_many_photographs(shared_data: Path, tmp_path: Path) -> None:
    """As many small images as fill a shard: their rows are in memory until it is done."""
    for path in (shared_data / "imagenette160").rglob("*.jpg"):
        for number in range(5):
            link = tmp_path / "data" / f"{number}" / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.write_bytes(path.read_bytes())
    figures = peaks(tmp_path / "data", tmp_path / "out", "uniform", 1_000_000)
    assert max(figures["worst child MiB"], figures["worst Ray worker MiB"]) <= MAX_WORKER_MIB
