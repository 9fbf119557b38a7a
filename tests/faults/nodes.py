"""A cluster of several nodes on this machine, whose nodes lose power."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from tests.pretrain_jobs import is_worker

ROOT = Path(__file__).resolve().parents[2]
HEALTH = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}


class Nodes:
    """A head without cores, which stays, and `count` nodes with one core each."""

    def __init__(self, count: int) -> None:
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH},
            shutdown_at_exit=False,  # its handler of signals keeps threads from adding nodes
        )
        self.bring_to(count)

    def family(self, word: str = "") -> list[psutil.Process]:
        """What the nodes have started: processes with this word on their command line."""
        of_nodes = [process for node in self._nodes() for process in _family_of(node)]
        return [process for process in of_nodes if word in _command_line(process)]

    def kill_any(self, draw: random.Random) -> None:
        """As when a machine loses power; another takes its place."""
        self._kill(draw.choice(self._nodes()))
        self.cluster.add_node(num_cpus=1)

    def kill_one_that_trains(self) -> None:
        """The same, of a machine that trains, and none takes its place."""
        self._kill(next(n for n in self._nodes() if any(map(is_worker, _family_of(n)))))

    def bring_to(self, count: int) -> None:
        """Takes nodes away, or adds some, until there are so many."""
        for node in self._nodes()[count:]:
            self.cluster.remove_node(node)
        for _ in range(count - len(self._nodes())):
            self.cluster.add_node(num_cpus=1)
        self.cluster.wait_for_nodes()

    def _kill(self, node: Any) -> None:  # noqa: ANN401  (Ray's node has no type)
        family = _family_of(node)
        self.cluster.remove_node(node, allow_graceful=False)
        for process in family:
            with suppress(psutil.NoSuchProcess):  # it went with its node
                process.kill()

    def _nodes(self) -> list[Any]:
        return sorted(self.cluster.worker_nodes, key=lambda node: str(node.node_id))


def _family_of(node: Any) -> list[psutil.Process]:  # noqa: ANN401
    raylet = node.all_processes["raylet"][0].process
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(raylet.pid).children(recursive=True)
    return []


def _command_line(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@contextmanager
def running(count: int) -> Iterator[Nodes]:
    """The cluster, apart from every other Ray of this machine."""
    # Ray's sockets lie in its temporary folder: a short path, and not that of other Rays.
    ray_folder = tempfile.mkdtemp(prefix="salmask-")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RAY_TMPDIR", ray_folder)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        # Of drivers, nodes and workers. Ray's minute is too short where all of them, on few cores,
        # keep the head from answering: "Timed out while waiting for GCS to become available".
        monkeypatch.setenv("RAY_gcs_server_request_timeout_seconds", "300")
        nodes = Nodes(count)
        try:
            yield nodes
        finally:
            nodes.cluster.shutdown()
    shutil.rmtree(ray_folder, ignore_errors=True)


def environment_of(nodes: Nodes) -> dict[str, str]:
    """Of a job on this cluster."""
    return os.environ | {"RAY_ADDRESS": nodes.cluster.address}
