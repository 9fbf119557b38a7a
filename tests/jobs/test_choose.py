"""The job on Ray: what it prints, that its choice is that of one process, and its errors."""

import json
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.choose import run
from tests.job_here import job_here
from tests.shard_sets import damage_images, write_shard_set
from tests.training.evaluate.cases import exported


@pytest.mark.usefixtures("ray_session")
def test_on_ray_it_chooses_as_in_one_process_and_names_a_damaged_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard_set(tmp_path / "pool", num_images=24, shard_images=8)
    write_shard_set(tmp_path / "target", num_images=6, first_number=100)
    exported(tmp_path / "export")
    job = job_here(run, monkeypatch, capsys)
    places = {"pool": "pool", "target": "target", "checkpoint": "export"}
    words = [word for name, at in places.items() for word in (f"--{name}", tmp_path / at)]
    found = {}
    for out, more in (("on ray", ["--json"]), ("here", ["--json", "--local"])):
        done = job(*words, "--out", tmp_path / out, *more)
        assert done.code == 0, done.err
        found[out] = json.loads(done.out)
        assert found[out].pop("out") == str(tmp_path / out)
        shards, chosen = tmp_path / "pool", shlex.quote(str(tmp_path / out))
        following = f"jobs/pretrain.py --shards {shards} --selection {chosen} --out RUN"
        assert f"results    6 images: {tmp_path / out} (next: {following})" in done.err
    assert found["on ray"] == found["here"] == {"images": 6, "digest": found["here"]["digest"]}
    scores = [pq.read_table(tmp_path / out / "selection.parquet")["score"] for out in found]
    assert scores[0].to_numpy() == pytest.approx(scores[1].to_numpy(), abs=1e-5)
    damage_images(tmp_path / "pool", 1, 1)
    for file in (tmp_path / "on ray").glob("scores-*/shard-000001.parquet"):
        file.unlink()
    # The damaged image is not among those that are compared with: an actor finds it.
    monkeypatch.setattr("training.select.scorer.REFERENCES", 2)
    done = job(*words, "--out", tmp_path / "on ray")
    assert done.code == 4, done.err
    assert done.err.startswith("error: sample picture-000008-")
