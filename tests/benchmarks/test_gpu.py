"""The GPU script runs: on a CPU, small; what needs CUDA says so, and a late part costs itself."""

import json
import time

import pytest

from tests.benchmarks import gpu
from tests.job_here import job_here


def late(_bench: gpu.Bench) -> gpu.Figures:
    time.sleep(20)
    return {}


def test_every_part_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sum(gpu.PARTS.values()) <= 560, "of 10 minutes, with what making pictures takes"
    monkeypatch.setattr(gpu, "PARTS", {late: 0.01} | gpu.PARTS)
    done = job_here(gpu.run, monkeypatch, capsys)("--device", "cpu", "--small")
    found = [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]
    lines = {line["part"]: line for line in found}
    assert list(lines) == [part.__name__ for part in gpu.PARTS]
    failed = {name: line["failed"] for name, line in lines.items() if "failed" in line}
    assert (done.code, failed) == (1, {"late": "TimeoutError: stopped after 0.01 s"})
    assert lines["compiled"]["images/s"] == lines["decoding"]["GPU images/s"] == gpu.NO_CUDA
    assert lines["determinism"]["usual"] == lines["determinism"]["deterministic"] == 0
    speeds = [v for k, v in lines["steps"].items() if k.endswith(("images/s", "of matrix"))]
    assert (len(speeds), min(speeds) > 0) == (12, True)
    assert 0 <= lines["whole"]["waiting"] < 1
    assert all(f"  {part:<12} " in done.out for part in lines)
