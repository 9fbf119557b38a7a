"""What a person sees of every job in a real terminal: bars that move to their end, whole lines."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.demo.pictures import make_demo_pictures
from tests.runs import NETWORK, StopsAfter
from tests.screens import Seen, check_bars, seen_in_terminal, whole_lines
from tests.shard_sets import write_shard_set
from tests.training.evaluate.cases import exported, write_evaluation


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, made: Path) -> Callable[[str, Path], Seen]:
    """One of `JOBS` in this process, whose standard output and error are a terminal."""

    def run(name: str, out: Path) -> Seen:
        words = JOBS[name][0].format(made=made, out=out).split()
        with monkeypatch.context() as patch:
            patch.delenv("RAY_ADDRESS", raising=False)
            patch.setitem(sys.modules, "ray", None)  # one worker, few images: none is started
            return seen_in_terminal(name.split()[0], words, monkeypatch)

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with masks, two labelled shard sets of one shard and more, and an export."""
    root = tmp_path_factory.mktemp("made")
    make_demo_pictures(root, num_train=8, num_usual=8, num_changed=8)
    write_shard_set(root / "train", num_images=37, shard_images=16)
    write_shard_set(root / "val", num_images=18, first_number=1000)
    exported(root / "export", NETWORK)
    for name, right in (("a", 4), ("b", 6)):
        write_evaluation(root / name, np.arange(9) < right)
    return root


EXPLAIN = "--checkpoint {made}/export --shards {made}/train --prototypes 4 --steps 4 --batch-size 5"
DEBUG = f"--recipe debug --epochs 1 --encoder.architecture {NETWORK} --encoder.stem standard"
CHOOSE = "--pool {made}/train --target {made}/val --checkpoint {made}/export --local"
SCORE = "--images {made}/pictures/usual --masks {made}/masks/usual"
EVALUATE = "--checkpoint {made}/export --train {made}/train --val {made}/val --local --protocol knn"
JOBS = {
    "precompute": ("--data {made}/pictures/train --out {out}", "making shards"),
    "precompute verify": ("--verify {made}/train --processes 1", "reading back"),
    "choose": (f"{CHOOSE} --out {{out}}", "scoring"),
    "pretrain": (f"{DEBUG} --shards {{made}}/train --out {{out}}", "training"),
    "stream": (f"{DEBUG} --stages {{made}}/train --out {{out}}", "training"),
    "explain": (f"{EXPLAIN} --width 4 --out {{out}}", "training"),
    "evaluate": (f"{EVALUATE} --k 3 --results {{out}}", "features of train"),
    "report": ("{made}/train --images 4 --out {out}", ""),
    "export": ("--checkpoint {made}/export --out {out} --formats", ""),
    "demo": ("--num-train 16 --num-test 8 --only-pictures --out {out}", "drawing"),
    "compare": ("{made}/a {made}/b", ""),
    "cluster": ("down --state {out}", ""),
    "score": (f"{SCORE} --saliency centre --processes 1", "scoring"),
}
"""Each job's words, and the work whose bar it shows; what needs Ray: `test_tune`, `test_nodes`."""


@pytest.mark.parametrize("name", JOBS)
def test_its_bars_move_to_their_end_and_lines_stay_whole(
    name: str, seen: Callable[[str, Path], Seen], tmp_path: Path
) -> None:
    code, screen = seen(name, tmp_path / "out")
    work = JOBS[name][1]
    assert code == int("verify" in name), screen  # the made set has no plan
    check_bars(screen, work)
    ends = ("results    ", "report     ", "centre", "| knn", "no cluster")  # tables are results
    assert any(whole.startswith(ends) for whole in whole_lines(screen)), screen


@pytest.mark.parametrize("name", ["pretrain", "explain"])
def test_a_training_that_is_stopped_has_an_exit_code_of_its_own(
    name: str, seen: Callable[[str, Path], Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"pretrain": "training.engine.local", "explain": "training.explain.train"}[name]
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.LocalContext", lambda: StopsAfter(1))
        code, screen = seen(name, tmp_path / "out")
    assert (code, "the same command goes on from there" in screen) == (130, True), screen
    code, screen = seen(name, tmp_path / "out")
    assert (code, "resuming after step 1" in screen) == (0, True), screen
