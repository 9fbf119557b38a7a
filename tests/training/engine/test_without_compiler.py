"""A training does without torch's compiler, whose import takes longer than its first steps."""

import os
import subprocess
import sys
from pathlib import Path

from tests.shard_sets import write_shard_set

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
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


def test_a_training_does_not_import_the_compiler_and_what_needs_it_finds_it(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "shards", num_images=16)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "shards"), str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
