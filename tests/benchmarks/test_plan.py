"""A plan for ten million images: seconds and peak memory, on a made-up listing."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

pytestmark = pytest.mark.benchmark

ROOT = Path(__file__).resolve().parents[2]
NUM_IMAGES = 10_000_000
MAX_GIB, MAX_SECONDS = 4.0, 300.0
STEPS = ("list", "plan", "write")


def test_ten_million_images(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.plan_of_millions", str(NUM_IMAGES), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    size = (tmp_path / "plan.arrow").stat().st_size
    print(
        f"\nplan of {NUM_IMAGES:,} images: one process, {platform.machine()}, {platform.system()}, "
        f"Python {platform.python_version()}, pyarrow {pa.__version__}"
    )
    for name, value in figures.items():
        print(f"  {name:<28} {value:8.2f}")
    print(f"  plan.arrow MB                {size / 1e6:8.0f}")
    # one thread: its CPU seconds are those of a machine that has nothing else to do
    assert sum(figures[f"{step} CPU s"] for step in STEPS) <= MAX_SECONDS
    assert figures["append CPU s"] <= MAX_SECONDS
    assert max(value for name, value in figures.items() if name.endswith("GiB")) <= MAX_GIB
