"""A training does without torch's compiler, whose import takes longer than its first steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shard_sets import write_shard_set

ROOT = Path(__file__).resolve().parents[3]
TRAINING = """
import sys
from dataclasses import replace
from pathlib import Path

from tests.runs import TORCHVISIONS, StopsAfter, run, small_run
from training.config.settings import KnnConfig
from training.methods.simclr.settings import SimCLRConfig

config = small_run(*map(Path, sys.argv[1:]), encoder=TORCHVISIONS, knn=KnnConfig())
run(replace(config, method=SimCLRConfig(batch_norm_group=4)), StopsAfter(2))
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]

import torch
from torchvision.ops.roi_align import is_compile_supported

assert is_compile_supported("cpu")
assert torch.compile(torch.sin, backend="eager")(torch.zeros(1)).item() == 0
"""
ASKS_FOR_MORE = """
import sys
from types import ModuleType

from pipeline.core import vision

names = (vision.COMPILER, vision.UTILS)
stand_ins = {name: vision._StandIn(name) for name in names}
sys.modules |= stand_ins
assert not any(hasattr(one, "__file__") for one in stand_ins.values())
assert sys.modules[vision.COMPILER] is stand_ins[vision.COMPILER]
IMPORT
assert all(type(sys.modules[name]) is ModuleType for name in names)
assert stand_ins[vision.UTILS].counters is sys.modules[vision.UTILS].counters
"""


def _run(program: str, *words: Path) -> None:
    command, environment = [sys.executable, "-c", program], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_training_does_not_import_the_compiler_and_what_needs_it_finds_it(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "shards", num_images=16)
    _run(TRAINING, tmp_path / "shards", tmp_path / "run")


@pytest.mark.parametrize(
    "words",
    [
        "from torch._dynamo.utils import counters",
        "from torch._dynamo import optimize",
        "from torch._dynamo.testing import CompileCounter",
        "import torch; torch._dynamo.reset()",
    ],
)
def test_a_torchvision_that_asks_the_compiler_for_more_gets_it(words: str) -> None:
    _run(ASKS_FOR_MORE.replace("IMPORT", words))
