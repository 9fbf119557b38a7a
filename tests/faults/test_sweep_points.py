"""The driver of a sweep of three trials is killed, or a write of it fails, at every point once.

The same command goes on with it: the trials' records, the table and the best trial are those of an
undisturbed sweep. The trials' own points are those of a pretraining (`test_pretrain_points.py`).
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from pipeline.core.faults import VARIABLE
from tests.faults.lives import ERRORS, SIGKILL, Life, failed_clearly, is_drawn, points_of
from tests.faults.test_sweep_killed import command
from tests.pretrain_jobs import Job, record, write_sets
from training.sweep.results import BEST_FILE, RESULTS_FILE, SUMMARY_FILE

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

PARTS = range(4)
"""A test has the points of one part: every fourth."""
OPTIONS = ("--grid", "seed=0,1,2", "--scheduler", "none", "--concurrent", "1", "--epochs", "1")


@dataclass(frozen=True)
class Sweeps:
    """Sweeps on one Ray, of which only the drivers have the variable, all in one folder."""

    root: Path
    address: str
    monkeypatch: pytest.MonkeyPatch

    @property
    def out(self) -> Path:
        return self.root / "sweep"

    def life(self, how: str = "kill", number: int = 0) -> Life:
        log, said = self.root / "points", self.root / "said.txt"
        for file in (log, said):
            file.unlink(missing_ok=True)
        self.monkeypatch.setenv(VARIABLE, f"{how}:{number}:{log}")
        arguments = command(self.root, self.out, *OPTIONS, "--cpus-per-worker", "1")
        job = Job(arguments, said, address=self.address)
        job.process.wait(timeout=600)
        return Life(job.process.returncode, job.said(), points_of(log))

    def left(self) -> dict[str, Any]:
        """What must be the same: no times, and not how often a trial was started."""
        rows = pq.read_table(self.out / RESULTS_FILE).drop_columns(["seconds"]).to_pylist()
        summary = json.loads((self.out / SUMMARY_FILE).read_text())
        return {
            "rows": rows,
            "summary": {name: value for name, value in summary.items() if name != "seconds"},
            "best": json.loads((self.out / BEST_FILE).read_text()),
            "records": [record(run) for run in sorted((self.out / "trials").iterdir())],
            "files": sorted(path.name for path in self.out.iterdir()),
        }


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweeps]:
    root = tmp_path_factory.mktemp("sweeps")
    write_sets(root, steps_per_epoch=2)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        yield Sweeps(root, cluster.address, monkeypatch)
        cluster.shutdown()


@pytest.fixture(scope="module")
def clean(sweeps: Sweeps) -> tuple[list[str], dict[str, Any]]:
    """The points of an undisturbed sweep, and what comes of it."""
    life = sweeps.life()
    assert life.code == 0, life.said
    left = sweeps.left()
    assert [row["status"] for row in left["rows"]] == ["finished"] * 3
    shutil.rmtree(sweeps.out)
    return life.points, left


@pytest.mark.parametrize("part", PARTS)
def test_the_driver_is_killed_or_a_write_fails(
    sweeps: Sweeps, clean: tuple[list[str], dict[str, Any]], part: int
) -> None:
    """A hashed third of the points fails, the others kill."""
    points, left = clean
    for number in range(1 + part, len(points) + 1, len(PARTS)):
        fails = is_drawn(number, "sweep", 3)
        how = ERRORS[number % len(ERRORS)] if fails else "kill"
        life = sweeps.life(how, number)
        assert life.points[:number] == points[:number], (number, life.said)
        assert fails or life.code == SIGKILL, (number, life.said)
        if not fails or failed_clearly(life):
            again = sweeps.life()
            assert again.code == 0, (number, points[number - 1], again.said)
        assert sweeps.left() == left, (number, points[number - 1])
        shutil.rmtree(sweeps.out)
