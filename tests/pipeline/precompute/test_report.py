"""The lines that a person watches."""

import pytest

from pipeline.manifest import ShardInfo
from pipeline.precompute.build import BuiltShard
from pipeline.precompute.report import Progress


def built(num_images: int, num_rejected: int = 0, rebuilt: bool = True) -> BuiltShard:
    info = ShardInfo(name="shard-000000", num_images=num_images, num_bytes=1, sha256="")
    return BuiltShard(info, num_rejected, rebuilt)


def test_progress_tells_how_far_how_fast_and_how_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([1.0, 3.0, 10.0, 20.0, 21.0])
    monkeypatch.setattr("pipeline.precompute.report.time.monotonic", lambda: next(clock))
    progress = Progress(1000, started=0.0, last_line=0.0)
    progress.add(built(50))  # after 1 s: too early for a line
    progress.add(built(100, rebuilt=False))  # after 3 s
    progress.add(built(45, num_rejected=5))  # after 10 s: 100 made, 100 skipped
    progress.add(built(200))  # after 20 s: 300 made
    progress.add(built(10))  # a second later
    assert capsys.readouterr().out.splitlines() == [
        "200/1000 images, 10 images/s, 1 min 20 s left",
        "400/1000 images, 15 images/s, 0 min 40 s left",
    ]


def test_skipped_shards_say_nothing_of_the_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.precompute.report.time.monotonic", lambda: 6.0)
    Progress(1000, started=0.0, last_line=0.0).add(built(256, rebuilt=False))
    assert capsys.readouterr().out == "256/1000 images\n"
