"""The driver of a sweep of three trials is killed, or a write of it fails, at every point once.

The same command goes on with it: the trials' records, the table and the best trial are those of an
undisturbed sweep. The trials' own points are those of a pretraining (`test_pretrain_points.py`).
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from pipeline.core.faults import VARIABLE
from tests.faults.lives import Life, Subject, hashed, points_of
from tests.faults.test_sweep_killed import command
from tests.pretrain_jobs import Job, record, write_sets
from training.sweep.results import BEST_FILE, RESULTS_FILE, SUMMARY_FILE

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

PARTS = range(4)
OPTIONS = (
    "--grid masks.strategy=learned,soft_high,exchange --scheduler none --concurrent 2 --epochs 2 "
    "--cpus-per-worker 1"
)


class Sweeps(Subject):
    """Sweeps on one Ray, of which only the drivers have the variable, all in one folder."""

    def __init__(self, root: Path, address: str) -> None:
        self.root, self.out, self.address = root, root / "sweep", address
        super().__init__(self._sweep, self._what_is_left, lambda: shutil.rmtree(self.out))

    def _sweep(self, how: str, number: int) -> Life:
        log, said = self.root / "points", self.root / "said.txt"
        for file in (log, said):
            file.unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv(VARIABLE, f"{how}:{number}:{log}")
            arguments = command(self.root, self.out, *OPTIONS.split())
            job = Job(arguments, said, address=self.address)
        return Life(job.process.wait(timeout=600), job.said(), points_of(log))

    def _what_is_left(self) -> dict[str, Any]:
        """All but times."""
        summary = json.loads((self.out / SUMMARY_FILE).read_text())
        del summary["seconds"]
        return {
            "rows": pq.read_table(self.out / RESULTS_FILE).drop_columns(["seconds"]).to_pylist(),
            "summary": summary,
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
        head = {"num_cpus": 2, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        sweeps = Sweeps(root, cluster.address)
        assert [row["status"] for row in sweeps.expected["rows"]] == ["finished"] * 3
        yield sweeps
        cluster.shutdown()


@pytest.mark.parametrize("part", PARTS)
def test_the_driver_is_killed_or_a_write_fails(sweeps: Sweeps, part: int) -> None:
    """At a hashed third of the points a write fails, at the others the driver is killed."""
    for number in sweeps.numbers[part :: len(PARTS)]:
        sweeps.disturb_all([number], fails=hashed(number, "sweep") % 3 == 0)
