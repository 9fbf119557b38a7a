"""With a Ray whose private parts are not those of the version in use, Ray runs in its own way."""

import asyncio
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.precompute.ray_private import replaced
from training.core.distributed import rank, world_size
from training.ray import private
from training.ray.workers import _controller_here

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys
from pathlib import Path

import psutil
import ray
import ray.train.torch

tested = ray.__version__
CHANGE
from training.ray.workers import call_on_workers

ray.__version__ = tested
from pipeline.precompute.ray_session import ray_running
from tests.training.ray.test_other_ray import product

with ray_running():
    assert call_on_workers(product, 21, 2, Path(sys.argv[1])) == 42
    commands = [" ".join(one.cmdline()) for one in psutil.Process().children()]
    small_head = not any("dashboard/dashboard.py" in command for command in commands)
print("training.ray.controller" in sys.modules, small_head)
"""


def product(factor: int, _device: torch.device) -> int:
    return factor * world_size() + rank()


@pytest.mark.parametrize(
    ("change", "shortened"),
    [
        ("", "True True"),
        ("ray.__version__ = '2.61.0'", "False False"),
    ],
)
def test_workers_give_the_same(change: str, shortened: str, tmp_path: Path) -> None:
    """Whether the controller ran in the driver, and whether the head was small."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    command = [sys.executable, "-c", PROGRAM.replace("CHANGE", change), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{shortened}\n"


def test_without_a_name_of_ray_there_is_no_controller_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with the version above."""
    with monkeypatch.context() as patched:
        patched.delattr("ray.train.v2._internal.execution.controller.TrainController")
        patched.delattr(private, "TrainController")
        importlib.reload(private)
        patched.delitem(sys.modules, "training.ray.controller", raising=False)
        assert _controller_here() is None
    importlib.reload(private)
    assert _controller_here() is not None


def test_in_a_notebook_whose_event_loop_runs_there_is_none() -> None:
    async def cell() -> object:
        return _controller_here()

    assert asyncio.run(cell()) is None


def test_an_attribute_that_is_missing_is_not_replaced() -> None:
    class Owner:
        there = 1

    with replaced(Owner, there=2, missing=3):
        assert (Owner.there, hasattr(Owner, "missing")) == (2, False)
    assert (Owner.there, hasattr(Owner, "missing")) == (1, False)
