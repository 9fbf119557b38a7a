"""The command as users type it."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.embed import run
from tests.job_here import job_here
from tests.shard_sets import damage_images, write_shard_set
from tests.training.evaluate.cases import exported


def test_shards_by_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard_set(tmp_path / "set", num_images=10)
    exported(tmp_path / "export")
    monkeypatch.setenv("SALMASK_ROOT", str(tmp_path))
    job = job_here(run, monkeypatch, capsys)
    done = job("export", "set", "f.parquet", "--duplicates", "0.5", "--diverse", "3", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found.pop("duplicates") > 0
    assert found == {"out": f"{tmp_path}/f.parquet", "images": 10, "features": 512}
    assert f"duplicates {tmp_path}/f.duplicates.csv\n" in done.err
    assert done.err.endswith(f"10 images, 512 features: {tmp_path}/f.parquet\n")
    labels = pq.read_table(tmp_path / "f.parquet")["label"].to_pylist()
    assert labels == [f"class_{number % 3}" for number in range(10)]
    for words, code, message in (
        (("export", "gone", "g.parquet"), 2, "error: no such folder: .*gone"),
        (
            ("gone", "set", "g.parquet"),
            2,
            "error: no folder .*gone: wanted a run or an exported backbone",
        ),
        (("export", "set", "set"), 2, "error: --out set must have a suffix"),
    ):
        done = job(*words)
        assert done.code == code
        assert re.fullmatch(f"{message}.*\n", done.err), done.err
    damage_images(tmp_path / "set", 0, 1)
    done = job("export", "set", "g.parquet")
    assert (done.code, done.err[:22]) == (4, "error: sample picture-")
    assert not (tmp_path / "g.parquet").exists()
