"""Kill -9 at random moments, start the same command again: the files of an undisturbed run."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.precompute.verify import verify_set
from tests.faults.nodes import ROOT, Nodes, environment_of, running
from tests.picture_folders import contents

pytestmark = pytest.mark.faults

NUM_IMAGES, SHARD_IMAGES = 480, 12
NUM_SHARDS = NUM_IMAGES // SHARD_IMAGES
KILLS_EACH = 5
"""Of workers, of the processes in which they decode, and of nodes; and each time of the driver."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("pictures")
    for number in range(NUM_IMAGES):
        pixels = np.random.default_rng(number).integers(0, 90, (96, 128, 3), dtype=np.uint8)
        cv2.circle(pixels, (40 + number % 50, 48), 20, (30, 60, 250), -1)
        folder = data / f"class_{number % 3}"
        folder.mkdir(exist_ok=True)
        assert cv2.imwrite(str(folder / f"{number}.{('jpg', 'png', 'tif')[number % 3]}"), pixels)
    (data / "class_0" / "bad.jpg").write_bytes(b"no picture")
    return data


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with running(2) as nodes:
        yield nodes


def start(data: Path, out: Path, nodes: Nodes) -> subprocess.Popen[str]:
    options = f"--shard-images {SHARD_IMAGES} --data {data} --out {out}".split()
    return subprocess.Popen(
        [sys.executable, "jobs/precompute.py", *options],
        cwd=ROOT,
        env=environment_of(nodes),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output


def wait_for_shards(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 900
    while len(list((out / "manifest").glob("*.parquet"))) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(
    data: Path, nodes: Nodes, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    finish(start(data, out, nodes))
    assert verify_set(out, processes=1) == []
    return contents(out)


Kill = Callable[[subprocess.Popen[str], Nodes, random.Random], None]
KILLS: dict[str, Kill] = {
    "worker": lambda process, nodes, draw: draw.choice(nodes.family("_ShardWorker")).kill(),
    "child": lambda process, nodes, draw: draw.choice(nodes.family("child_process")).kill(),
    "node": lambda process, nodes, draw: nodes.kill_any(draw),
}


@pytest.mark.parametrize("victim", KILLS)
def test_the_same_files_come_out(
    data: Path, nodes: Nodes, undisturbed: dict[str, str], tmp_path: Path, victim: str
) -> None:
    draw = random.Random(victim)
    out = tmp_path / "out"
    # each in a part of the run of its own, so that all of them find it running
    part = NUM_SHARDS // (KILLS_EACH + 1)
    num_kills = 0
    for number in range(KILLS_EACH):
        process = start(data, out, nodes)
        wait_for_shards(out, number * part + draw.randrange(1, part), process)
        time.sleep(draw.random() * 0.1)
        if process.poll() is None:
            KILLS[victim](process, nodes, draw)
            num_kills += 1
        time.sleep(draw.random() * 0.5)
        process.kill()  # the driver too: what was killed is survived, and would leave nothing
        process.communicate()
    assert num_kills == KILLS_EACH
    finish(start(data, out, nodes))
    assert contents(out) == undisturbed
    assert verify_set(out, processes=1) == []


@pytest.mark.parametrize("victim", ["worker", "child", "node"])
def test_a_run_goes_on_by_itself(
    data: Path, nodes: Nodes, undisturbed: dict[str, str], tmp_path: Path, victim: str
) -> None:
    draw = random.Random(f"once {victim}")
    out = tmp_path / "out"
    process = start(data, out, nodes)
    wait_for_shards(out, draw.randrange(1, NUM_SHARDS // 2), process)
    KILLS[victim](process, nodes, draw)
    finish(process)
    assert contents(out) == undisturbed
