"""What a person sees of every job in a real terminal: bars that move to their end, whole lines."""

import importlib
import os
import pty
import re
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.demo.pictures import make_demo_pictures
from tests.runs import NETWORK, StopsAfter
from tests.shard_sets import write_shard_set
from tests.training.evaluate.cases import exported

BAR = re.compile(r"([\w ()-]+?): +(\d+)%\|[^|\r\n]*\| (\d+)/(\d+) \[")
END = b"\0"
Seen = tuple[int, str]
"""Exit code, and all that the terminal was sent."""


class Screen:
    """A pseudo-terminal, and a thread that reads what is sent to it."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (40, 200))
        self._sent = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._sent.endswith(END):  # a helper of multiprocessing keeps it open for longer
            self._sent += os.read(self._ours, 4096)

    def sent(self) -> str:
        """Everything, once those who wrote have ended; closes the terminal."""
        os.write(self.theirs, END)
        self._reader.join()
        os.close(self._ours)
        os.close(self.theirs)
        return self._sent.removesuffix(END).decode()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, made: Path) -> Callable[[str, Path], Seen]:
    """One of `JOBS` in this process, whose standard output and error are a terminal."""

    def run(name: str, out: Path) -> Seen:
        words = JOBS[name][0].format(made=made, out=out).split()
        screen = Screen()
        again = os.dup(screen.theirs)
        with monkeypatch.context() as patch, open(again, "w", buffering=1) as stream:
            patch.setenv("TERM", "xterm")
            patch.delenv("RAY_ADDRESS", raising=False)
            patch.setitem(sys.modules, "ray", None)  # one worker, few images: none is started
            patch.setattr(sys, "argv", ["job.py", *words])
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            with pytest.raises(SystemExit) as ended:
                main(importlib.import_module(f"jobs.{name.split()[0]}").run)
        assert isinstance(ended.value.code, int)
        return ended.value.code, screen.sent()

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with masks, two labelled shard sets of one shard and more, and an export."""
    root = tmp_path_factory.mktemp("made")
    make_demo_pictures(root, num_train=8, num_usual=8, num_changed=8)
    write_shard_set(root / "train", num_images=37, shard_images=16)
    write_shard_set(root / "val", num_images=18, first_number=1000)
    exported(root / "export", NETWORK)
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
    "score": (f"{SCORE} --saliency centre --processes 1", "scoring"),
}
"""Each job's words, and the work whose bar it shows."""


@pytest.mark.parametrize("name", JOBS)
def test_its_bars_move_to_their_end_and_lines_stay_whole(
    name: str, seen: Callable[[str, Path], Seen], tmp_path: Path
) -> None:
    code, screen = seen(name, tmp_path / "out")
    work = JOBS[name][1]
    assert code == int("verify" in name), screen  # the made set has no plan
    works: dict[str, list[tuple[int, int]]] = {}
    for one, _, done, total in BAR.findall(screen):
        works.setdefault(one.strip(), []).append((int(done), int(total)))
    assert not work or work in works, screen
    for one, shown in works.items():
        starts = [at for at, (done, _) in enumerate(shown) if done == 0]
        assert starts[0] == 0, f"{one}: {shown}"
        for start, end in zip(starts, [*starts[1:], len(shown)], strict=True):
            steps = [done for done, _ in shown[start:end]]
            assert steps == sorted(steps), f"{one}: {shown}"
            assert steps[-1] == shown[start][1], f"{one} stands before its end: {shown}"
    # Lines begin at the left edge, where the bar was taken away before.
    lines = [whole.rpartition("\r")[2].rstrip() for whole in screen.split("\r\n")]
    ends = ("results    ", "report     ", "centre")  # a table of scores is the result
    assert any(whole.startswith(ends) for whole in lines), screen
    assert not any("%|" in whole for whole in lines), screen


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
