"""Two machines that share a bucket alone: the log comes to the driver, a stop goes to rank 0."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipeline.core.progress import Standing, listening
from pipeline.storage.store import LocalStore
from tests.listeners import Kept
from training.record import mirror, relay
from training.record.mirror import STOP_FILE, Mirror


def until(fits: Callable[[], bool], then: Callable[[], None]) -> None:
    deadline = time.monotonic() + 60
    while not fits():
        assert time.monotonic() < deadline
        then()
        time.sleep(0.02)


def test_log_and_stop_pass_through_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "TICK_SECONDS", 0.0)
    monkeypatch.setattr(relay, "POLL_SECONDS", 0.02)
    store, kept = LocalStore(tmp_path / "bucket"), Kept()
    driver, worker = (Mirror(store, tmp_path / name, 1) for name in ("driver", "worker"))
    worker.folder.mkdir()
    there = relay.Relay(worker.folder)
    with listening(kept), relay.shown(driver.folder, driver.exchange):
        for count in range(1, 3):
            there.say(f"line {count}")
            there.show(Standing(work="training", done=count, total=9, unit="steps"))
            until(partial(kept.lines.__contains__, f"line {count}"), worker.tick)
        until(lambda: bool(kept.standings), worker.tick)
        assert not (worker.folder / STOP_FILE).exists()
        (driver.folder / STOP_FILE).touch()
        until((worker.folder / STOP_FILE).exists, worker.tick)
        there.say("the end")
        worker.end(is_over=True)
    assert kept.lines == ["line 1", "line 2", "the end"]
