"""How long a user waits for small things: 50 images, a trial run, the list of commands.

Each command is a process of its own and takes turns with the same work on a Ray that it starts
itself; both make the same shards. Times are of the wall: let nothing else run.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.benchmarks.timing import in_turns, machine, show_medians
from tests.picture_folders import contents

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

ROUNDS, IMAGES, HEIGHT, WIDTH = 3, 50, 375, 500
MOST_PRECOMPUTE, MOST_FIRST_STEP, MOST_NOTHING, MOST_HELP = 5.0, 8.0, 2.0, 1.0
SALMASK = Path(sys.executable).with_name("salmask")


def write_photographs(data: Path) -> None:
    """JPEGs of the usual size and, with a soft picture and some noise, of the usual bytes."""
    rng = np.random.default_rng(0)
    data.mkdir()
    for number in range(IMAGES):
        soft = cv2.resize(rng.uniform(0, 255, (12, 16, 3)), (WIDTH, HEIGHT))
        noisy = np.clip(soft + rng.normal(0, 12, soft.shape), 0, 255).astype(np.uint8)
        assert cv2.imwrite(str(data / f"{number}.jpg"), noisy)


def salmask(*words: str | Path, ray: bool = False) -> None:
    """A command to its end."""
    _started(words, ray).communicate(timeout=300)


def until_first_step(out: Path, words: Sequence[str | Path], *, ray: bool = False) -> float:
    """Seconds from the command to the record of its first step; the run then goes on to its end."""
    start = time.monotonic()
    job = _started([*words, out], ray)
    metrics = out / "metrics.jsonl"
    while not (metrics.exists() and '"kind": "train"' in metrics.read_text()):
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < start + 300
        time.sleep(0.02)
    seconds = time.monotonic() - start
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said
    return seconds


def _started(words: Sequence[str | Path], ray: bool) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [SALMASK, *words],
        env=env | ({"RAY_ADDRESS": "local"} if ray else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_small_things_take_seconds(tmp_path: Path) -> None:
    data, sets = tmp_path / "images", tmp_path / "sets"
    write_photographs(data)
    local, on_ray = sets / "0", sets / "ray-0"
    times = in_turns(
        {
            "precompute 50 images": lambda n: salmask("precompute", data, sets / str(n)),
            "the same on Ray": lambda n: salmask("precompute", data, sets / f"ray-{n}", ray=True),
            "precompute with nothing to do": lambda _: salmask("precompute", data, local),
            "nothing to do, RAY_ADDRESS given": lambda _: salmask(
                "precompute", data, on_ray, ray=True
            ),
            "--help": lambda _: salmask("--help"),
        },
        ROUNDS,
        now=time.monotonic,
    )
    for number in range(ROUNDS + 1):
        assert contents(sets / f"{number}" / "shards") == contents(
            sets / f"ray-{number}" / "shards"
        )

    debug = ("pretrain", "--recipe", "debug", "--shards", local, "--out")
    names = ("pretrain --recipe debug, first step", "its first step on Ray")
    steps = {name: list[float]() for name in names}
    for number in range(ROUNDS):
        for name, ray in zip(names, (False, True), strict=True):
            run = tmp_path / f"run-{number}-{ray}"
            steps[name].append(until_first_step(run, debug, ray=ray))

    print(f"\n{machine('ray', 'torch')}, {len(os.sched_getaffinity(0))} cores")
    medians = show_medians(times, "s", 1) | show_medians(steps, "s", 1)
    assert medians["precompute 50 images"] <= MOST_PRECOMPUTE
    assert medians["precompute with nothing to do"] <= MOST_NOTHING
    assert medians["--help"] <= MOST_HELP
    assert medians[names[0]] <= MOST_FIRST_STEP
