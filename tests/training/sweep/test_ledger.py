"""The ledger: what was written is what is read, through crashes in mid-line."""

import json
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from training.sweep.ledger import LEDGER_FILE, Ledger, Report


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path)
    ledger.start(0, {"epochs": 2, "fill": "mean"})
    ledger.start(1, {"epochs": 2, "fill": "blur"})
    ledger.report(1, epochs=1.0, seconds=5.0, values={"knn": 30.0, "loss": 2.0})
    ledger.report(0, epochs=1.0, seconds=6.0, values={"knn": 20.0})
    ledger.report(1, epochs=2.0, seconds=9.0, values={"knn": 40.0})
    ledger.end(1, "finished", epochs=2.0, seconds=10.0)
    return ledger


def test_it_says_how_every_trial_stands(ledger: Ledger) -> None:
    first, second = ledger.trials[0], ledger.trials[1]
    assert (first.status, first.ended, first.epochs, first.seconds) == ("running", False, 1, 6)
    assert (second.status, second.ended, second.epochs, second.seconds) == ("finished", True, 2, 10)
    assert second.values == {"knn": 40.0, "loss": 2.0}
    assert second.run == "trials/0001"
    assert ledger.reports == [
        Report(1, 1.0, {"knn": 30.0, "loss": 2.0}),
        Report(0, 1.0, {"knn": 20.0}),
        Report(1, 2.0, {"knn": 40.0}),
    ]


def test_another_process_reads_the_same(ledger: Ledger, tmp_path: Path) -> None:
    again = Ledger(tmp_path)
    assert again.trials == ledger.trials
    assert again.reports == ledger.reports


def test_a_trial_that_goes_on_adds_its_time_and_repeats_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.start(0, {"epochs": 3})
    ledger.report(0, epochs=1.0, seconds=10.0, values={"knn": 1.0})
    ledger = Ledger(tmp_path)
    ledger.start(0, {"epochs": 3})
    assert ledger.report(0, epochs=1.0, seconds=2.0, values={"knn": 1.0}) is None
    assert ledger.report(0, epochs=2.0, seconds=4.0, values={"knn": 2.0}) is not None
    ledger.end(0, "stopped", epochs=2.5, seconds=5.0)
    trial = Ledger(tmp_path).trials[0]
    assert (trial.seconds, trial.epochs, trial.status) == (15.0, 2.5, "stopped")


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_cut_off_by_a_crash_is_as_if_it_had_not_been(
    ledger: Ledger, tmp_path: Path, cut: int
) -> None:
    path = tmp_path / LEDGER_FILE
    path.write_bytes(path.read_bytes()[:-cut])
    again = Ledger(tmp_path)
    assert again.trials[1].status == "running"
    assert again.trials[1].epochs == 2.0
    again.end(1, "finished")
    assert Ledger(tmp_path).trials[1].status == "finished"
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_damaged_line_in_the_middle_is_named(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / LEDGER_FILE
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = "what?\n"
    path.write_text("".join(lines))
    with pytest.raises(InputError, match=r"line 3 of .*trials\.jsonl is damaged"):
        Ledger(tmp_path)


def test_a_failed_trial_can_be_opened_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.start(0, {"epochs": 3})
    assert ledger.end(0, "failed", message="no more memory").message == "no more memory"
    assert Ledger(tmp_path).trials[0].ended
    ledger.reopen(0)
    trial = Ledger(tmp_path).trials[0]
    assert (trial.status, trial.message) == ("running", None)


def test_nothing_is_written_before_the_first_event(tmp_path: Path) -> None:
    Ledger(tmp_path / "none")
    assert not (tmp_path / "none").exists()
