"""Precompute without Ray: any number of processes makes the same bytes."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.core.progress import listening
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import build_here, run_precompute
from tests.listeners import Kept
from tests.picture_folders import contents, write_pictures


def test_one_and_two_processes_make_the_same_set(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 12)
    config = PrecomputeConfig(
        data=tmp_path / "data", out=tmp_path / "1", shard_images=4, saliency="centre"
    )
    first = run_precompute(config)
    assert len(first.shards) == 3
    two = partial(build_here, num_processes=2)
    assert run_precompute(replace(config, out=tmp_path / "2"), two) == first
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    (tmp_path / "1" / "shards" / "shard-000001.tar").unlink()
    kept = Kept()
    with listening(kept):
        run_precompute(config)
    # what was whole is no part of the speed
    assert [(s.done, s.given) for s in kept.standings] == [(0, 0), (4, 4), (8, 4), (12, 8)]
