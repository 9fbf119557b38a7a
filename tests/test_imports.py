"""The contracts on imports in pyproject.toml hold, and packages import nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [
    path.relative_to(ROOT).as_posix()
    for name in ("pipeline", "training", "jobs")
    for path in (ROOT / name).rglob("__init__.py")
    if path.parent.name != "salmask"  # whose names are all that it has
]


def test_the_contracts_hold() -> None:
    """Rooms import one way, without circles, and Ray stays in its rooms (import-linter)."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", PACKAGES)
def test_packages_import_nothing(path: str) -> None:
    assert ast.parse((ROOT / path).read_text()).body == []


def test_private_modules_of_ray_are_imported_in_one_file_of_a_package() -> None:
    private = r"^ *(from|import) ray\.([a-z0-9_.]*\.)?_"
    search = ["git", "grep", "-lE", private, "--", "pipeline", "training", "jobs"]
    found = subprocess.run(search, cwd=ROOT, capture_output=True, text=True, check=True)
    files = ["pipeline/precompute/ray_private.py", "training/ray/private.py"]
    assert found.stdout.split() == files
