"""The demo on few pictures: what it writes, that it goes on, when it fails."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cli import parse
from jobs.compare import run as compare
from jobs.demo import run
from pipeline.core.errors import InputError
from pipeline.demo.clock import Clock
from tests.job_here import job_here
from training.demo.config import DemoConfig
from training.demo.run import COLUMNS, ROWS, read_outcome

ROOT = Path(__file__).resolve().parents[2]


def words(out: Path) -> list[str]:
    sizes = {"num-train": 64, "num-test": 16, "epochs": 1, "seed": 3, "out": out}
    return [word for name, value in sizes.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    out = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(
        [sys.executable, "jobs/demo.py", *words(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (out / "result.json").exists(), done.stderr
    return out, done.stdout, done.returncode


def test_the_result(demo: tuple[Path, str, int]) -> None:
    out, printed, code = demo
    result = json.loads((out / "result.json").read_text())
    assert list(result) == ["seconds", *ROWS, "difference_changed"]
    assert result["seconds"] > 0
    for row in ROWS:
        assert list(result[row]) == ["usual", "changed"]
        assert all(0 <= points <= 100 for points in result[row].values())
    difference = result["difference_changed"]
    assert difference["low"] <= difference["points"] <= difference["high"]
    change = result["method"]["changed"] - result["baseline"]["changed"]
    assert difference["points"] == pytest.approx(change, abs=0.011)  # rounded to 0.01 each
    better = all(result["method"][c] > result["untrained"][c] for c in COLUMNS)
    assert code == (0 if better else 1)
    assert "On changed backgrounds the method is" in printed
    assert "95 % interval" in printed
    assert (out / "contact_sheet.png").stat().st_size > 0
    page = (out / "demo.html").read_text()
    assert "Does the network look at the object?" in page
    assert f"{result['method']['changed']:.1f}" in page
    assert "for this vote only, not in training. Guessing is right in\n12.5 %" in page


def test_its_evaluations_can_be_compared(
    demo: tuple[Path, str, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = demo[0] / "evaluations"
    assert sorted(p.name for p in folder.iterdir()) == sorted(ROWS)
    done = job_here(compare, monkeypatch, capsys)(*(folder / row for row in ROWS))
    assert done.code == 0, done.err
    assert "knn usual" in done.out
    assert "knn changed" in done.out


def test_the_same_command_goes_on(
    demo: tuple[Path, str, int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without pictures, shards and runs being made again, and without another figure."""
    out, _, code = demo
    before = (out / "result.json").read_text()
    kept = [*out.rglob("state.pt"), *out.rglob("*.tar"), out / "seed-3" / "demo.json"]
    stamps = [path.stat().st_mtime_ns for path in kept]
    assert len(kept) == 4
    done = job_here(run, monkeypatch, capfd)(*words(out), "--json")
    assert done.code == code, done.err
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    assert (out / "result.json").read_text() == before
    told = json.loads(done.out)
    assert told["finished"]
    assert told["method"] == json.loads(before)["method"]


def test_it_fails_unless_both_columns_are_better(demo: tuple[Path, str, int]) -> None:
    outcome = read_outcome(demo[0] / "evaluations")
    assert outcome.num_images == 16
    untrained = {"usual": 30.0, "changed": 20.0}
    for usual, changed, learned in ((30.1, 20.1, True), (30, 50, False), (50, 19, False)):
        method = {"usual": usual, "changed": changed}
        figures = {"untrained": untrained, "baseline": untrained, "method": method}
        assert replace(outcome, figures=figures).has_learned is learned


def test_options() -> None:
    config = parse(DemoConfig, "demo", ["--seed", "1", "--epochs", "2"])
    assert config == DemoConfig(seed=1, epochs=2)
    with pytest.raises(InputError, match="epochs 0"):
        DemoConfig(epochs=0)
    with pytest.raises(InputError, match=r"--num-train 8 must be a multiple of 8, 64 or more"):
        DemoConfig(num_train=8)
    with pytest.raises(InputError, match=r"--num-test 12 must be a multiple of 8, 8 or more"):
        DemoConfig(num_test=12)
    assert DemoConfig(num_train=8, only_pictures=True).num_train == 8
    for seed in (-1, 1 << 63):
        with pytest.raises(InputError, match=f"seed {seed} must be from 0 to 9223372036854775807"):
            DemoConfig(seed=seed)


def test_an_unreadable_clock_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "seconds.json"
    for text, earlier in (("", 0.0), ("[", 0.0), ("[1]", 0.0), ("5000", 5000.0)):
        path.write_text(text)
        clock = Clock(path)
        assert clock.seconds == earlier
        clock.stop()
        assert json.loads(path.read_text()) == clock.seconds > earlier
