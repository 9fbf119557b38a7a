"""Readers of files that others made: damage is refused in a clear line, whatever it is.

`make fuzz` reads 10,000 damaged inputs of each kind, `make test` the first of them.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.child_process import Child, ChildDied
from tests.fuzz.readers import KINDS, read_damaged

COUNT, MOST_NAMED = int(os.environ.get("FUZZ_INPUTS", "100")), 20


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    process = Child()
    yield process
    process.close()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs(child: Child, kind: str, tmp_path: Path) -> None:
    """No input ends the process or takes long, runs code, or opens a file that is not its own."""
    try:
        counts, wrong = child.call(read_damaged, kind, tmp_path / "read", 0, COUNT)
    except ChildDied as died:
        number = (tmp_path / "current").read_text()
        pytest.fail(f"input {number} of {kind} ends the process ({died})")
    print(f"{kind}: {counts}")
    assert not wrong, f"{len(wrong)} findings:\n" + "\n".join(wrong[:MOST_NAMED])
    assert sum(counts.values()) == COUNT
    assert counts["refused"] > COUNT / 10  # the damage reaches what is read
