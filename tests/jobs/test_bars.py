"""What a person sees of every job in a real terminal: bars that move to their end, whole lines."""

import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import (
    choose,
    compare,
    demo,
    evaluate,
    explain,
    export,
    precompute,
    pretrain,
    report,
    score,
    stream,
)
from jobs.cli import main
from tests.picture_folders import write_pictures
from tests.pretrain_jobs import ROOT, command
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
def seen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Seen]:
    """A job in this process, whose standard output and error are a terminal."""

    def run(job: Callable[[], int | None], *words: str | Path) -> Seen:
        screen = Screen()
        again = os.dup(screen.theirs)
        with monkeypatch.context() as patch, open(again, "w", buffering=1) as stream:
            patch.setenv("TERM", "xterm")
            patch.delenv("RAY_ADDRESS", raising=False)
            patch.setitem(sys.modules, "ray", None)  # one worker, few images: none is started
            patch.setattr(sys, "argv", ["job.py", *map(str, words)])
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            with pytest.raises(SystemExit) as ended:
                main(job)
        assert isinstance(ended.value.code, int)
        return ended.value.code, screen.sent()

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, two labelled shard sets of one shard and more, and an export."""
    root = tmp_path_factory.mktemp("made")
    write_pictures(root / "pictures", 8)
    write_shard_set(root / "train", num_images=37, shard_images=16)
    write_shard_set(root / "val", num_images=18, first_number=1000)
    exported(root / "export", NETWORK)
    return root


def works_of(screen: str) -> dict[str, list[tuple[int, int]]]:
    """(done, total) as each bar showed it, by the name of the work."""
    found: dict[str, list[tuple[int, int]]] = {}
    for name, _, done, total in BAR.findall(screen):
        found.setdefault(name.strip(), []).append((int(done), int(total)))
    return found


SMALL = "--prototypes 4 --steps 4 --batch-size 5 --width 4"
JOBS: dict[str, tuple[Callable[[], int | None], str, str]] = {
    "precompute": (precompute.run, "--data {made}/pictures --out {out}", "making shards"),
    "verify": (precompute.run, "--verify {made}/train --processes 1", "reading back"),
    "choose": (
        choose.run,
        "--pool {made}/train --target {made}/val --checkpoint {made}/export --out {out} --local",
        "scoring",
    ),
    "pretrain": (pretrain.run, "--epochs 1", "training"),
    "stream": (stream.run, "--epochs 1 --stages {made}/train", "training"),
    "explain": (
        explain.run,
        f"--checkpoint {{made}}/export --shards {{made}}/train --out {{out}} {SMALL}",
        "training",
    ),
    "evaluate": (
        evaluate.run,
        "--checkpoint {made}/export --train {made}/train --val {made}/val --results {out} --local "
        "--protocol knn --k 3",
        "features of train",
    ),
    "report": (report.run, "{made}/train --images 4 --out {out}", ""),
    "export": (export.run, "--checkpoint {made}/export --out {out} --formats", ""),
    "demo": (
        demo.run,
        "--num-train 16 --num-test 8 --only-pictures --out {out}",
        "drawing",
    ),
}
"""What each runs, its words, and the work whose bar it shows."""


@pytest.mark.parametrize("name", JOBS)
def test_its_bars_move_to_their_end_and_lines_stay_whole(
    name: str, seen: Callable[..., Seen], made: Path, tmp_path: Path
) -> None:
    job, line, work = JOBS[name]
    words = line.format(made=made, out=tmp_path / "out").split()
    if name in ("pretrain", "stream"):
        words = [*command(made, tmp_path / "out")[2:], *words]
    if name == "stream":
        drop = words.index("--shards")
        words = words[:drop] + words[drop + 2 :]
    code, screen = seen(job, *words)
    assert code == int(name == "verify"), screen  # the made set has no plan
    works = works_of(screen)
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
    assert any(whole.startswith(("results    ", "report     ")) for whole in lines), screen
    assert not any("%|" in whole for whole in lines), screen


def test_scoring_and_comparing(seen: Callable[..., Seen], made: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "demo"
    sizes = ["--num-train", "8", "--num-test", "8", "--only-pictures", "--out"]
    assert seen(demo.run, *sizes, pictures)[0] == 0
    (work,) = pictures.glob("seed-*")
    folders = ("--images", work / "pictures" / "usual", "--masks", work / "masks" / "usual")
    code, screen = seen(score.run, *folders, "--saliency", "centre", "--processes", "1")
    assert (code, works_of(screen)["scoring"][-1]) == (0, (8, 8)), screen
    words = ("--checkpoint", made / "export", "--train", made / "train", "--val", made / "val")
    knn = ("--local", "--protocol", "knn", "--k", "3", "--results")
    for arm in "ab":
        assert seen(evaluate.run, *words, *knn, tmp_path / arm)[0] == 0
    code, screen = seen(compare.run, tmp_path / "a", tmp_path / "b")
    assert code == 0, screen
    assert "comparing" in screen.splitlines()[0]


def test_a_bar_goes_on_where_standard_error_becomes_a_pipe() -> None:
    """As it does while Ray Data works."""
    script = """
from jobs.cli import main, parse
from pipeline.core.progress import Standing, show
from pipeline.precompute.ray_session import without_lines
from tests.jobs.test_terminal import NoOptions

def shards(done):
    show(Standing(work="shards", done=done, total=1000, unit="images"))

def job():
    parse(NoOptions, "x", [])
    shards(0)
    with without_lines(b"note"):
        shards(500)
    shards(1000)

main(job)
"""
    screen = Screen()
    job = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=screen.theirs,
        stderr=screen.theirs,
        env=os.environ | {"TERM": "xterm", "TQDM_MININTERVAL": "0"},
    )
    assert job.wait(60) == 0
    shown = works_of(screen.sent())["shards"]
    assert list(dict.fromkeys(shown)) == [(0, 1000), (500, 1000), (1000, 1000)]


def test_a_training_that_is_stopped_has_an_exit_code_of_its_own(
    seen: Callable[..., Seen], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*command(made, tmp_path / "run", "--epochs", "1")[2:]]
    small = f"--checkpoint {made}/export --shards {made}/train --out {tmp_path}/E {SMALL}".split()
    for module, job, given in (
        ("training.engine.local", pretrain.run, words),
        ("training.explain.train", explain.run, small),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.LocalContext", lambda: StopsAfter(1))
            code, screen = seen(job, *given)
        assert code == 130, screen
        assert "the same command goes on from there" in screen
        code, screen = seen(job, *given)
        assert (code, "resuming after step 1" in screen) == (0, True), screen
