"""The director: what runs next, what is stopped, and that a killed sweep is the same sweep."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.core.progress import listening
from tests.listeners import Kept
from tests.training.sweep.small_sweeps import small_sweep
from training.sweep.config import Sweep
from training.sweep.director import Director, Judge, check_reported
from training.sweep.ledger import Ledger
from training.sweep.results import RESULTS_FILE
from training.sweep.space import parse_space


class Below:
    """Stops what is below a limit; remembers all that it was told."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.told: list[tuple[int, float, float]] = []

    def falls_behind(self, number: int, epochs: float, objective: float) -> bool:
        self.told.append((number, epochs, objective))
        return objective < self.limit


@pytest.fixture(autouse=True)
def kept() -> Iterator[Kept]:
    """What the directors of a test tell."""
    kept = Kept()
    with listening(kept):
        yield kept


def direct(sweep: Sweep, judge: Judge | None = None) -> Director:
    sweep.folder.mkdir(parents=True, exist_ok=True)
    return Director(sweep, Ledger(sweep.folder), judge=judge, description={})


def report(director: Director, number: int, epochs: float, knn: float) -> bool:
    return director.report(number, epochs=epochs, seconds=epochs, values={"knn": knn})


def end(
    director: Director, number: int, *, finished: bool = True, message: str | None = None
) -> None:
    director.end(number, finished=finished, epochs=None, seconds=3.0, message=message)


def test_trials_come_in_the_order_of_the_grid_and_then_no_more(tmp_path: Path) -> None:
    director = direct(small_sweep(tmp_path))
    given = [director.next() for _ in range(5)]
    assert given[:4] == list(enumerate(small_sweep(tmp_path).points()))
    assert given[4] is None
    assert director.num_left == 4


def test_one_that_is_behind_is_stopped_one_at_its_end_is_not(tmp_path: Path, kept: Kept) -> None:
    director = direct(small_sweep(tmp_path), Below(20))
    for _ in range(2):
        director.next()
    assert not report(director, 0, 1, 30)
    assert report(director, 1, 1, 10)
    end(director, 1, finished=False)
    assert not report(director, 0, 4, 15)  # behind, with nothing left to save
    end(director, 0)
    assert [trial.status for trial in director.trials] == ["finished", "stopped"]
    assert kept.lines[3] == "trial 1 epoch 1, knn 10: behind the others, it is stopped"
    assert "trial 1 stopped after 1 epochs, 3 s: 1 done, 3 left" in kept.lines
    table = pq.read_table(tmp_path / RESULTS_FILE).to_pylist()
    assert [(row["status"], row["objective"]) for row in table] == [
        ("finished", 15.0),
        ("stopped", 10.0),
    ]


def test_how_far_a_sweep_is(tmp_path: Path, kept: Kept) -> None:
    before = direct(small_sweep(tmp_path), Below(20))
    before.next()
    report(before, 0, 1, 30)
    before.next()
    director = direct(small_sweep(tmp_path), Below(20))  # four trials of four epochs
    kept.standings.clear()
    director.next()
    director.next()
    report(director, 0, 2, 30)
    report(director, 1, 1, 10)
    end(director, 1, finished=False)
    # one epoch was there before; one trial was trained for one epoch of four and is over
    steps = [(s.done, s.done - s.given) for s in kept.standings]
    assert steps == [(1, 0), (1, 0), (2, 1), (3, 2), (6, 2)]
    last = kept.standings[-1]
    assert (last.total, last.unit, last.note) == (16, "epochs", "1 of 4 trials ended, 1 running")


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path)
    before = direct(sweep, Below(20))
    for _ in range(3):
        before.next()
    report(before, 0, 1, 30)
    report(before, 1, 1, 25)
    report(before, 0, 2, 31)
    end(before, 0)
    judge = Below(20)
    after = direct(sweep, judge)
    assert judge.told == [(0, 1, 30), (1, 1, 25), (0, 2, 31)]
    assert after.num_left == 3
    following = [after.next() for _ in range(4)]
    assert [each and each[0] for each in following] == [1, 2, 3, None]
    assert not report(after, 1, 1, 25)  # it repeats itself, and nobody is told again
    assert len(judge.told) == 3
    report(after, 1, 2, 26)
    assert judge.told[3] == (1, 2, 26)


def test_a_stop_that_was_decided_before_the_kill_holds(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path)
    before = direct(sweep, Below(20))
    before.next()
    before.next()
    assert report(before, 0, 1, 10)
    after = direct(sweep, Below(20))
    assert after.ledger.trials[0].status == "stopped"
    assert [each and each[0] for each in (after.next(), after.next())] == [1, 2]


def test_a_trial_that_leaves_because_the_sweep_is_stopped_has_not_ended(tmp_path: Path) -> None:
    director = direct(small_sweep(tmp_path))
    director.next()
    director.closing = True
    assert director.next() is None
    end(director, 0, finished=False)
    assert director.running == set()
    assert director.trials[0].status == "running"
    assert direct(small_sweep(tmp_path)).next() == (0, small_sweep(tmp_path).points()[0])


def test_a_failed_trial_stays_so_unless_it_is_asked_for(tmp_path: Path, kept: Kept) -> None:
    director = direct(small_sweep(tmp_path))
    director.next()
    end(director, 0, finished=False, message="the loss is no longer finite")
    assert "failed after 0 epochs, 3 s (the loss is no longer finite)" in kept.lines[-1]
    again = direct(small_sweep(tmp_path))
    assert again.num_left == 3
    again.reopen_failed()
    assert again.num_left == 4
    following = again.next()
    assert following is not None
    assert following[0] == 0


def test_more_trials_than_before_are_added(tmp_path: Path) -> None:
    space = parse_space(uniform=["optim.lr=0.1..0.2"])
    few = direct(small_sweep(tmp_path, space, num_trials=1))
    few.next()
    end(few, 0)
    assert few.next() is None
    more = direct(small_sweep(tmp_path, space, num_trials=3))
    assert more.num_left == 2
    assert [each and each[0] for each in (more.next(), more.next(), more.next())] == [1, 2, None]


def test_optunas_points_come_from_what_has_ended(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    space = parse_space(uniform=["optim.lr=0.1..0.2"])
    director = direct(small_sweep(tmp_path, space, search="optuna", num_trials=3))
    first = director.next()
    report(director, 0, 4, 50)
    end(director, 0)
    second = director.next()
    assert first is not None
    assert second is not None
    assert first[1] != second[1]
    assert Ledger(tmp_path).trials[1].point == second[1]


def test_an_objective_that_nobody_reported_is_said(tmp_path: Path) -> None:
    director = direct(small_sweep(tmp_path))
    director.next()
    end(director, 0)
    with pytest.raises(InputError, match="no trial reported its knn"):
        check_reported(director.trials, director.sweep)
    director.next()
    report(director, 1, 1, 3)
    end(director, 1)
    check_reported(director.trials, director.sweep)
