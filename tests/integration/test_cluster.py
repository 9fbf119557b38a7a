"""The cluster as a person uses it: make cluster-up, ray job submit as typed, make cluster-down."""

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs.local_cluster import (
    Head,
    free_port,
    processes_of,
    remembered_head,
    require_free,
    running_head,
    stop_head,
)
from pipeline.core.errors import InputError

pytestmark = pytest.mark.starts_ray

ROOT = Path(__file__).resolve().parents[2]

JOB = """
import os, signal, sys, time
import ray

ray.init(address=os.environ.get("RAY_ADDRESS"))

@ray.remote
def where():
    return sys.executable

@ray.remote
def wait():
    time.sleep(600)

print("folder", os.getcwd())
print("root", os.environ["SALMASK_ROOT"])
print("python", ray.get(where.remote()))
if len(sys.argv) > 1:
    def save(signum, frame):
        with open(sys.argv[1], "w") as file:
            file.write("saved")
        sys.exit(0)
    signal.signal(signal.SIGTERM, save)
    print("waiting", flush=True)
    ray.get(wait.remote())
"""


class Shell:
    """A new shell at the project's root: a home of its own, the environment's bin on PATH."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "cluster"
        self.port, self.dashboard_port = free_port(), free_port()
        home = folder / "home"
        home.mkdir()
        own = {k: v for k, v in os.environ.items() if not k.startswith(("RAY", "MAKE", "MFLAGS"))}
        path = f"{sys.prefix}/bin{os.pathsep}{own['PATH']}"
        # Ray's sockets lie in its temporary folder: a short path, and not that of other Rays.
        self.ray_folder = tempfile.mkdtemp(prefix="salmask-")
        self.env = own | {"HOME": str(home), "PATH": path, "RAY_TMPDIR": self.ray_folder}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, shell=True, cwd=ROOT, env=self.env, text=True, capture_output=True, timeout=120
        )

    def make(self, target: str) -> subprocess.CompletedProcess[str]:
        # `-o setup`: the tests run in an environment that stands already, maybe elsewhere.
        return self.run(
            f"make -o setup {target} VENV='{sys.prefix}' CLUSTER_STATE='{self.state}'"
            f" CLUSTER_PORT={self.port} DASHBOARD_PORT={self.dashboard_port} CLUSTER_CPUS=2"
        )


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    head = remembered_head(shell.state)
    if head is not None:
        stop_head(head, shell.state, grace_s=0)
    shutil.rmtree(shell.ray_folder, ignore_errors=True)


def test_up_submit_down(shell: Shell, tmp_path: Path) -> None:
    # Somebody else's process, by its words one of Ray's: it must outlive our cluster-down.
    bystander = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)", "raylet", "gcs_server", "ray start"]
    )
    try:
        up = shell.make("cluster-up")
        assert up.returncode == 0, up.stdout + up.stderr
        head = running_head(shell.state)
        assert head is not None
        assert head.url in up.stdout

        again = shell.make("cluster-up")
        assert again.returncode == 0
        assert "already up" in again.stdout
        assert running_head(shell.state) == head

        token = Path(shell.env["HOME"]) / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o077 == 0, "other users can read the token"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{head.url}/api/jobs/", timeout=10)
        assert refused.value.code == 401

        script, saved = tmp_path / "job.py", tmp_path / "saved"
        script.write_text(JOB)
        job = shell.run(f"ray job submit -- python {script}")
        assert job.returncode == 0, job.stdout + job.stderr
        assert f"folder {ROOT}\n" in job.stdout
        assert f"root {ROOT}\n" in job.stdout
        assert f"python {sys.prefix}/bin/python" in job.stdout

        # One that is left running: cluster-down lets it save, then ends it and its like.
        shell.run(f"ray job submit --no-wait --submission-id long -- python {script} {saved}")
        for _ in range(60):
            if "waiting" in shell.run("ray job logs long").stdout:
                break
        assert len(processes_of(head)) > 5

        down = shell.make("cluster-down")
        assert down.returncode == 0, down.stdout + down.stderr
        assert "stopped the job long" in down.stdout
        assert saved.read_text() == "saved"
        assert processes_of(head) == []
        assert processes_mentioning(str(script)) == []
        assert running_head(shell.state) is None
        assert bystander.poll() is None
        assert "no cluster" in shell.make("cluster-down").stdout
    finally:
        bystander.kill()
        bystander.wait()


def test_a_taken_port_is_named(shell: Shell) -> None:
    with (
        subprocess.Popen(
            [sys.executable, "-c", LISTEN, str(shell.dashboard_port)], stdout=subprocess.PIPE
        ) as holder,
    ):
        assert holder.stdout is not None
        holder.stdout.readline()
        up = shell.make("cluster-up")
        holder.kill()
    assert up.returncode == 2
    assert f"port {shell.dashboard_port}" in up.stderr
    assert "DASHBOARD_PORT=" in up.stderr
    assert not shell.state.exists(), "a refused start writes nothing"


LISTEN = """
import socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    print("listening", flush=True)
    time.sleep(600)
"""


def test_a_port_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="port 70000"):
        require_free("CLUSTER_PORT", 70000)


def test_a_pid_used_again_is_not_the_head(tmp_path: Path) -> None:
    """After a crash the pid in head.json may be anybody's, who may lead a session."""
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    try:
        created = psutil.Process(other.pid).create_time() - 60
        head = Head(pid=other.pid, created=created, marker="none", port=1, dashboard_port=2)
        assert processes_of(head) == []
        assert stop_head(head, tmp_path, grace_s=0) == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def processes_mentioning(text: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(text in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
