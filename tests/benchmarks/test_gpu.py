"""The GPU script runs: on a CPU, small; what needs CUDA says so, and a late part costs itself."""

import json
import time
from pathlib import Path

import pytest

from tests.benchmarks import gpu
from tests.job_here import job_here


def late(_bench: gpu.Bench) -> gpu.Figures:
    time.sleep(20)
    return {}


def test_every_part_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sum(gpu.PARTS.values()) <= 560, "of 10 minutes, with what making pictures takes"
    monkeypatch.setattr(gpu, "PARTS", {late: 0.01} | gpu.PARTS)
    out = tmp_path / "made" / "gpu.jsonl"
    done = job_here(gpu.run, monkeypatch, capsys)("--device", "cpu", "--small", "--out", out)
    lines = {line["part"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert list(lines) == [part.__name__ for part in gpu.PARTS]
    failed = {name: line["failed"] for name, line in lines.items() if "failed" in line}
    assert (done.code, failed) == (1, {"late": "TimeoutError: stopped after 0.01 s"})
    assert lines["compiled"]["images/s"] == lines["decoding"]["GPU images/s"] == gpu.NO_CUDA
    assert lines["determinism"]["usual"] == lines["determinism"]["deterministic"] == 0
    speeds = [v for k, v in lines["steps"].items() if k.endswith(("images/s", "of matrix"))]
    assert len(speeds) == 12
    assert min(speeds) > 0
    assert 0 <= lines["whole"]["waiting"] < 1
    assert all(f"  {part:<12} " in done.out for part in lines)
