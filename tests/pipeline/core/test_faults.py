"""The hook itself, and that no place writes without it."""

import ast
import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core import faults

ROOT = Path(__file__).resolve().parents[3]
HOOKED = {
    *("pipeline/backbone/folder.py", "pipeline/storage/atomic.py", "pipeline/storage/store.py"),
    *("pipeline/storage/object_store.py", "training/core/checkpoint.py", "training/data/damage.py"),
    *("training/engine/extend.py", "training/record/metrics.py", "training/record/relay.py"),
    "training/sweep/preflight.py",
}
"""The files that write for precompute, pretraining and sweep: each comes to points."""
ELSEWHERE = {
    "pipeline/backbone/formats.py": "files of an export, whose folder is renamed when it is whole",
    "pipeline/demo/clock.py": "the demo",
    "pipeline/demo/pictures.py": "the demo",
    "pipeline/precompute/remove.py": "this node's cache, which others may have, too",
    "pipeline/shardset/cache.py": "locks and room of the cache; its shards are written atomically",
    "pipeline/storage/alone.py": "a folder that is locked, and taken away if it stays empty",
    "pipeline/storage/storage.py": "local copies of files in a bucket",
    "training/demo/run.py": "the demo",
    "training/engine/replay_step.py": "a temporary folder",
    "training/evaluate/results.py": "a line for each result of an evaluation",
    "training/ray/launch.py": "a stop that was asked for",
    "training/ray/nodes.py": "a token for the nodes to find, which is removed",
    "training/ray/workers.py": "a folder for temporary files",
    "training/record/mirror.py": "a working folder, whose files follow into a bucket",
    "training/report/demo_page.py": "the demo",
    "training/sweep/trainable.py": "a stop that was asked for",
    "training/sweep/tune.py": "a stop that was asked for; Tune's own state is Ray's",
    "jobs/terminal.py": "nowhere, for a reader that has left",
    "jobs/local_head.py": "one machine as a cluster",
}
"""Other files that write, and what."""
WRITES = {
    *("write_text", "write_bytes", "mkdir", "makedirs", "touch", "symlink_to", "rename", "unlink"),
    *("rmtree", "rmdir", "copyfile", "copytree", "copy2", "move", "imwrite", "write_html"),
}
WRITING_MODE = re.compile(r"[wax][bt]?\+?|[wax]\+[bt]?|r[bt]?\+|r\+[bt]?")


def test_points_are_numbered_over_all_processes_and_one_of_them_dies(tmp_path: Path) -> None:
    code = "from pipeline.core.faults import point; point('write', '/a/b.txt'); point('rename')"
    environment = os.environ | {faults.VARIABLE: f"kill:4:{tmp_path / 'log'}"}
    command = [sys.executable, "-c", f"{code}; print('alive')"]
    ends = [
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=False)
        for _ in range(3)
    ]
    assert [(end.returncode, end.stdout) for end in ends] == [
        (0, b"alive\n"),
        (-9, b""),
        (0, b"alive\n"),
    ]
    lines = [line.strip() for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == ["write b.txt", "rename"] * 3


@pytest.mark.parametrize("how", ["ENOSPC", "EACCES", "ECONNRESET"])
def test_a_write_fails_once(tmp_path: Path, how: str) -> None:
    faults.switch(f"{how}:2:{tmp_path / 'log'}")
    try:
        faults.point("write", "a")
        with pytest.raises(OSError, match=os.strerror(getattr(errno, how))):
            faults.point("write", "b")
        faults.point("write", "b")
    finally:
        faults.switch(None)
    faults.point("write", "c")
    assert (tmp_path / "log").stat().st_size == 3 * faults.RECORD_BYTES


def writes(source: str) -> Iterator[int]:
    """The lines of calls that write to a disk or a bucket, or change what is there."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        text = ast.unparse(node)
        name = ast.unparse(node.func).rpartition(".")[2]
        words = [*node.args, *(keyword.value for keyword in node.keywords)]
        modes = [one.value for one in words if isinstance(one, ast.Constant)]
        if (
            name in WRITES
            or (name == "open" and re.search("O_CREAT|O_WRONLY", text))
            or (name == "open" and any(WRITING_MODE.fullmatch(str(mode)) for mode in modes))
            # of a path: those of strings and data classes have other arguments
            or (name == "replace" and len(node.args) == 1 and not node.keywords)
            or text.startswith(("bucket.put(", "bucket.delete(", "shutil.copy("))
        ):
            yield node.lineno


def test_no_other_place_writes() -> None:
    """A new one goes through these, or is named here."""
    for line in ("p.open(mode='r+b')", "open(p, 'a', 1)", "os.open(p, os.O_CREAT)", "p.replace(q)"):
        assert list(writes(line)) == [1], line
    for line in ("p.open('rb')", "name.replace('a', 'b')", "replace(config, out=out)"):
        assert not list(writes(line)), line
    files = [p for room in ("pipeline", "training", "jobs") for p in (ROOT / room).rglob("*.py")]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in files}
    found = {name for name, source in sources.items() if any(writes(source))}
    assert found == HOOKED | ELSEWHERE.keys()
    for name in HOOKED:
        assert re.search(r"\b(_?point|append_text)\(", sources[name]), name
