"""From a worker through the run's folder to the process that started it."""

import json
from dataclasses import replace
from pathlib import Path

from pipeline.core.progress import Standing, listening, say, show
from tests.listeners import Clock, Kept
from training.record.relay import PROGRESS_FILE, STANDING_FILE, Relay, shown

START = Standing(work="training", done=0, total=9, unit="steps")


def test_lines_and_progress_arrive(tmp_path: Path) -> None:
    (tmp_path / PROGRESS_FILE).write_text("of an earlier start\n")
    (tmp_path / STANDING_FILE).write_text("stale")
    kept, progress = Kept(), replace(START, done=4, note="loss 5.1")
    with listening(kept), shown(tmp_path), listening(Relay(tmp_path)):
        say("resuming after step 3")
        show(progress)
        say("warning: collapse")
    assert (tmp_path / PROGRESS_FILE).read_text().splitlines() == [
        "of an earlier start",
        "resuming after step 3",
        "  training: 4/9 steps; loss 5.1",
        "warning: collapse",
    ]
    assert kept.lines == ["resuming after step 3", "warning: collapse"]
    assert kept.standings == [progress]


def test_a_note_is_kept_once_and_progress_is_written_now_and_then(tmp_path: Path) -> None:
    clock = Clock(100.0)
    relay = Relay(tmp_path, clock)
    times = ((100.0, 1, "a"), (100.4, 2, "a"), (100.8, 3, "b"), (101.1, 4, "b"))
    for clock.now, done, note in times:
        relay.show(replace(START, done=done, note=note))
        written = json.loads((tmp_path / STANDING_FILE).read_text())
        assert written["done"] == (4 if done == 4 else 1)
    assert (tmp_path / PROGRESS_FILE).read_text().count("\n") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [STANDING_FILE, PROGRESS_FILE]


def test_a_full_disk_ends_no_run_for_its_display(tmp_path: Path) -> None:
    (tmp_path / STANDING_FILE / "in the way").mkdir(parents=True)
    Relay(tmp_path).show(START)
