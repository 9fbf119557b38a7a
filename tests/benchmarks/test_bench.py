"""The comparison of checkouts, on made-up benchmarks."""

from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.core.errors import InputError
from tests.benchmarks import bench

MASKS = """
import pytest

@pytest.mark.benchmark
def test_masks_of_a_batch():
    print("  patches of both (counted)     FIGURE us/image (1.000 to 9.000)")
    assert False, "its target is missed"
"""


def made_checkout(root: Path, figure: str) -> Path:
    file = root / "tests" / "benchmarks" / "test_masks.py"
    file.parent.mkdir(parents=True)
    file.write_text(MASKS.replace("FIGURE", figure))
    return root


def test_checkouts_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = made_checkout(tmp_path / "other", "2.000")
    monkeypatch.setattr(bench, "ROOT", made_checkout(tmp_path / "here", "3.000"))
    command = ["bench", "--against", str(other), "--only", "masks", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match="0"):
        main(bench.run)
    assert capsys.readouterr().out.startswith("masks: 1.500 of ")
    with pytest.raises(InputError, match=r"test_sweep_overhead.py prints no figure"):
        bench.measure(other, "sweep")
    with pytest.raises(InputError, match="some of loader, masks, step, precompute, sweep"):
        bench.BenchConfig(only=("mask",))
