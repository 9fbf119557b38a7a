"""What a trial says is what its record says, once, and to its end."""

import json
import time
from pathlib import Path

import pytest

from training.record.metrics import METRICS_FILE
from training.sweep import trial
from training.sweep.trial import Said, follow, said_since


def write(out: Path, *entries: dict[str, object]) -> None:
    out.mkdir(exist_ok=True)
    with (out / METRICS_FILE).open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def evaluation(step: int, **values: float) -> dict[str, object]:
    return {"step": step, "kind": "eval", **values}


def test_evaluations_are_said_with_the_loss_before_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        evaluation(0, knn=10.0),
        {"step": 2, "kind": "train", "loss": 3.0, "lr": 0.1, "samples_seen": "ff"},
        evaluation(2, knn=20.0, heldout_loss=1.5),
        {"step": 2, "kind": "warning", "message": "collapse"},
        {"step": 4, "kind": "train", "loss": 2.0},
        evaluation(4, knn=30.0),
    )
    first = Said(2, {"loss": 3.0, "knn": 20.0, "heldout_loss": 1.5})
    second = Said(4, {"loss": 2.0, "knn": 30.0})
    assert said_since(tmp_path, 0) == [first, second]
    assert said_since(tmp_path, 2) == [second]
    assert said_since(tmp_path / "none", 0) == []


def test_a_run_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "POLL_SECONDS", 0.01)

    def run() -> None:
        for step in (1, 2, 3):
            write(tmp_path, evaluation(step, knn=float(step)))
            time.sleep(0.03)
        (tmp_path / METRICS_FILE).write_text("")  # started again after a crash, it repeats itself
        write(tmp_path, *(evaluation(step, knn=float(step)) for step in (2, 3, 4)))

    assert [said.step for said in follow(run, tmp_path)] == [1, 2, 3, 4]


def test_what_was_said_before_a_failure_comes_first(tmp_path: Path) -> None:
    def run() -> None:
        write(tmp_path, evaluation(1, knn=5.0))
        raise RuntimeError("broken")

    following = follow(run, tmp_path)
    assert next(following).step == 1
    with pytest.raises(RuntimeError, match="broken"):
        next(following)
