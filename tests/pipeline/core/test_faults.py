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
    "pipeline/backbone/folder.py",
    "pipeline/storage/atomic.py",
    "pipeline/storage/object_store.py",
    "pipeline/storage/store.py",
    "training/core/checkpoint.py",
    "training/data/damage.py",
    "training/engine/extend.py",
    "training/record/metrics.py",
    "training/record/relay.py",
    "training/sweep/preflight.py",
}
"""The files that write for precompute, pretraining and sweep: each comes to points."""
ELSEWHERE = {
    "pipeline/backbone/formats.py": "files of an export, whose folder is renamed when it is whole",
    "pipeline/core/faults.py": "the log of the points",
    "pipeline/demo/clock.py": "the demo",
    "pipeline/demo/pictures.py": "the demo",
    "pipeline/precompute/remove.py": "another node's cache may keep what is taken out",
    "pipeline/shardset/cache.py": "locks and room of the cache; its shards are written atomically",
    "training/demo/run.py": "the demo",
    "training/engine/replay_step.py": "a temporary folder",
    "training/evaluate/results.py": "a line for each result of an evaluation",
    "training/ray/launch.py": "a stop that was asked for",
    "training/ray/nodes.py": "a token for the nodes to find, which is removed",
    "training/ray/workers.py": "a folder for temporary files",
    "training/report/demo_page.py": "the demo",
    "training/sweep/trainable.py": "a stop that was asked for",
    "training/sweep/tune.py": "a stop that was asked for; Tune's own state is Ray's",
    "jobs/local_head.py": "one machine as a cluster",
}
"""Other files that write, and what."""
WRITES = {
    *("write_text", "write_bytes", "mkdir", "makedirs", "touch", "symlink_to"),
    *("rename", "renames", "unlink", "rmtree", "rmdir", "copyfile", "copytree", "copy2", "move"),
    *("imwrite", "write_html"),
}
WRITING_MODE = re.compile(r"[wax][bt]?\+?|[wax]\+[bt]?|r[bt]?\+|r\+[bt]?")


@pytest.fixture(autouse=True)
def off() -> Iterator[None]:
    yield
    faults.switch(None)


def test_points_are_numbered_over_all_processes_and_one_of_them_dies(tmp_path: Path) -> None:
    code = (
        "from pipeline.core.faults import point\n"
        "point('write', '/a/b.txt'); point('rename', 'c'); print('alive')"
    )
    environment = os.environ | {faults.VARIABLE: f"kill:4:{tmp_path / 'log'}"}
    ends = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True)
        for _ in range(3)
    ]
    assert [end.returncode for end in ends] == [0, -9, 0], ends[0].stderr
    assert [end.stdout for end in ends] == [b"alive\n", b"", b"alive\n"]
    lines = [line.strip() for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == ["write b.txt", "rename c"] * 3


@pytest.mark.parametrize(
    ("how", "kind"),
    [("ENOSPC", OSError), ("EACCES", PermissionError), ("ECONNRESET", ConnectionResetError)],
)
def test_a_write_fails_once(tmp_path: Path, how: str, kind: type[OSError]) -> None:
    faults.switch(f"{how}:2:{tmp_path / 'log'}")
    faults.point("write", "a")
    with pytest.raises(kind) as raised:
        faults.point("write", "b")
    assert raised.value.errno == getattr(errno, how)
    faults.point("write", "b")
    faults.switch(None)
    faults.point("write", "c")
    assert (tmp_path / "log").stat().st_size == 3 * faults.RECORD_BYTES


def writes(tree: ast.AST) -> Iterator[int]:
    """The lines of calls that write to a disk or a bucket, or change what is there."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else ""
        name = function.id if isinstance(function, ast.Name) else name
        words = [*node.args, *(keyword.value for keyword in node.keywords)]
        modes = [one.value for one in words if isinstance(one, ast.Constant)]
        if name in WRITES:
            yield node.lineno
        elif name == "open" and isinstance(function, ast.Attribute | ast.Name):
            flags = ast.unparse(node)
            if (
                "O_CREAT" in flags
                or "O_WRONLY" in flags
                or any(isinstance(mode, str) and WRITING_MODE.fullmatch(mode) for mode in modes)
            ):
                yield node.lineno
        elif name == "replace" and len(node.args) == 1 and not node.keywords:
            yield node.lineno  # of a path: those of strings and data classes have other arguments
        elif ast.unparse(function) in ("bucket.put", "bucket.delete", "shutil.copy"):
            yield node.lineno


def test_no_other_place_writes() -> None:
    """A new one goes through these, or is named here."""
    found = {
        path.relative_to(ROOT).as_posix()
        for room in ("pipeline", "training", "jobs")
        for path in (ROOT / room).rglob("*.py")
        if any(writes(ast.parse(path.read_text())))
    }
    assert found == HOOKED | ELSEWHERE.keys()


@pytest.mark.parametrize("name", sorted(HOOKED))
def test_every_file_that_writes_comes_to_points(name: str) -> None:
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / name).read_text()))
        if isinstance(node, ast.Call)
    ]
    assert {"point", "append_text"} & {ast.unparse(call.func) for call in calls}


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("path.open('xb')", True),
        ("open(path, 'a', buffering=1)", True),
        ("path.open(mode='r+b')", True),
        ("os.open(path, os.O_RDWR | os.O_CREAT)", True),
        ("temporary.replace(final)", True),
        ("os.rename(a, b)", True),
        ("path.open('rb')", False),
        ("name.replace('a', 'b')", False),
        ("dataclasses.replace(config, out=out)", False),
        ("store.open('wax')", False),
    ],
)
def test_what_counts_as_a_write(line: str, is_one: bool) -> None:
    assert any(writes(ast.parse(line))) == is_one
