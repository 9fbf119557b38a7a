"""Precompute without Ray: any number of processes makes the same bytes."""

from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.local import precompute
from tests.picture_folders import contents, write_pictures


def test_one_and_two_processes_make_the_same_set(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 12)
    infos = []
    for number in (1, 2):
        config = PrecomputeConfig(
            data=tmp_path / "data", out=tmp_path / str(number), shard_images=4, saliency="centre"
        )
        infos.append(precompute(config, number))
    assert len(infos[0].shards) == 3
    assert infos[0] == infos[1]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_no_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="num_processes 0"):
        precompute(PrecomputeConfig(data=tmp_path, out=tmp_path / "out"), 0)
