"""What `make setup` and `make dev` install, and what they take where torch's index is not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UV = """#!/bin/sh
echo "$@" >> calls
case "$*" in
  *--torch-backend*) echo "noise of uv" >&2; exit $NO_BACKEND;;
  *) exit $NO_INDEX;;
esac
"""
"""In the place of uv: notes how it is called, and fails as it is told to."""
Made = tuple[int, str, list[str]]
PLACE = "--quiet --python venv/bin/python --constraint constraints.txt"


def make(folder: Path, *words: str, no_backend: int = 0, no_index: int = 0) -> Made:
    """Exit code, what a person sees, and how uv was called after `pip install` and `PLACE`."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        if not (folder / name).exists():
            (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / "venv" / "bin").mkdir(parents=True, exist_ok=True)
    for name, text in (("python", "#!/bin/sh\nexit 0\n"), ("uv", UV)):
        (folder / "venv" / "bin" / name).write_text(text)
        (folder / "venv" / "bin" / name).chmod(0o755)
    (folder / "calls").unlink(missing_ok=True)
    # Under `make test` these would make it a part of that make, which says more.
    of_make = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    plain = {name: value for name, value in os.environ.items() if name not in of_make}
    done = subprocess.run(
        ["make", *words, "VENV=venv", f"PYTHON={sys.executable}"],
        cwd=folder,
        env={**plain, "NO_BACKEND": str(no_backend), "NO_INDEX": str(no_index)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    calls = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    assert all(call.startswith(f"pip install {PLACE} ") for call in calls)
    return done.returncode, done.stdout, [call.partition(f"{PLACE} ")[2] for call in calls]


USER = "--editable .[detection,export,heif,onnx,timm]"


@pytest.mark.parametrize(
    ("words", "no_backend", "calls"),
    [
        (["setup"], 0, ["--torch-backend auto torch torchvision", USER]),
        (["setup", "TORCH=cuda"], 1, [USER]),
        (["setup", "TORCH=cpu"], 1, ["--torch-backend cpu torch torchvision", USER]),
        (["dev", "TORCH=cuda"], 0, [USER, "--editable .[dev]"]),
    ],
)
def test_what_is_installed(
    tmp_path: Path, words: list[str], no_backend: int, calls: list[str]
) -> None:
    code, said, called = make(tmp_path, *words, no_backend=no_backend)
    assert (code, called) == (0, calls)
    fell_back = "torch's own index cannot be reached: torch comes from the package index"
    was_refused = no_backend and len(calls) == 2
    assert said.splitlines() == ([f"{fell_back}, maybe with CUDA"] if was_refused else [])
    assert make(tmp_path, *words) == (0, f"make: Nothing to be done for '{words[0]}'.\n", [])


def test_without_a_package_index_one_line_says_what_is_wanted(tmp_path: Path) -> None:
    code, said, _ = make(tmp_path, "setup", "TORCH=cuda", no_index=1)
    assert code == 2
    assert said.startswith("set-up stopped: it needs a package index that pip and uv reach")
    assert not (tmp_path / "venv" / ".installed").exists()


def test_targets_make_the_environment_that_they_need(tmp_path: Path) -> None:
    for target, wants_dev in (("test", True), ("lint", True), ("demo", False), ("sweep", False)):
        code, said, _ = make(tmp_path, "-n", target)
        assert (code, "'.[dev]'" in said, f"'{USER[11:]}'" in said) == (0, wants_dev, True)
