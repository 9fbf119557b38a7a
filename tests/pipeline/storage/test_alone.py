"""Two jobs that are given the same folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.remove import remove_images
from pipeline.precompute.run import run_precompute
from pipeline.storage.alone import alone_in
from tests.picture_folders import write_pictures
from tests.runs import run, small_run
from tests.shard_sets import write_shard_set
from training.config.settings import KnnConfig

ROOT = Path(__file__).resolve().parents[3]
HOLDS = "import sys; from pathlib import Path; from pipeline.storage.alone import alone_in\n"
HOLDS += "with alone_in(Path(sys.argv[1])): print('holds', flush=True); sys.stdin.read()"
REFUSED = "another process writes to {}: run this again once it has ended"


def test_the_second_job_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 3)
    write_shard_set(tmp_path / "shards", num_images=16)
    out = tmp_path / "out"
    precompute = PrecomputeConfig(data=tmp_path / "data", out=out, saliency="uniform")
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(out)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == b"holds\n"
    with pytest.raises(InputError, match=REFUSED.format(out)):
        run_precompute(precompute)
    with pytest.raises(InputError, match=REFUSED.format(out)):
        remove_images(out, ["a"])
    with pytest.raises(InputError, match=REFUSED.format(out)):
        run(small_run(tmp_path / "shards", out, knn=KnnConfig()))
    first.kill()
    first.communicate()
    assert run_precompute(precompute).num_images == 3


def test_a_folder_that_stays_empty_is_taken_away_again(tmp_path: Path) -> None:
    with alone_in(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with alone_in(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


def test_what_is_no_folder_is_left_to_who_writes_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("a" * 300)):
        with alone_in(place):
            pass
    assert (tmp_path / "file").is_file()
