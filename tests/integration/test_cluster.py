"""The cluster as a person uses it: make cluster-up, source its env, submit, make cluster-down."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs.local_head import (
    WATCHER,
    free_port,
    is_up,
    processes_of,
    read_environment,
    require_free,
    stop,
)
from pipeline.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SLEEP = "import time; time.sleep(600)"

JOB = """
import os, signal, sys, time
import ray

ray.init(address=os.environ["RAY_ADDRESS"])

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
DRIVER = 'import os, ray; ray.init(os.environ["RAY_ADDRESS"]); print(len(ray.nodes()), "node")'


class Shell:
    """A new shell at the project's root, with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "clus ter"
        self.port, self.dashboard_port = free_port(), free_port()
        self.home = folder / "home"
        self.home.mkdir()
        own = {k: v for k, v in os.environ.items() if not k.startswith(("RAY", "MAKE", "MFLAGS"))}
        # Ray's sockets lie in its temporary folder: a short path, and not that of other Rays.
        self.ray_folder = tempfile.mkdtemp(prefix="salmask-")
        self.env = own | {"HOME": str(self.home), "RAY_TMPDIR": self.ray_folder}

    def run(self, command: str, *, sourced: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            f"source '{self.state}/env' && {command}" if sourced else command,
            shell=True,
            executable="/bin/bash",
            cwd=ROOT,
            env=self.env,
            text=True,
            capture_output=True,
            timeout=120,
        )

    def make(self, target: str) -> subprocess.CompletedProcess[str]:
        # `-o setup`: the tests run in an environment that stands already, maybe elsewhere.
        return self.run(
            f"make -o setup {target} VENV='{sys.prefix}' CLUSTER_STATE='{self.state}'"
            f" CLUSTER_PORT={self.port} DASHBOARD_PORT={self.dashboard_port} CLUSTER_CPUS=2",
            sourced=False,
        )


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    stop(shell.state, grace_s=0)
    shutil.rmtree(shell.ray_folder, ignore_errors=True)


def test_up_submit_down(shell: Shell, tmp_path: Path) -> None:
    # Somebody else's process, by its words one of Ray's: it must outlive our cluster-down.
    bystander = subprocess.Popen([sys.executable, "-c", SLEEP, "raylet", "gcs_server", "--block"])
    before = files_of(Path(sys.prefix))
    try:
        up = shell.make("cluster-up")
        assert up.returncode == 0, up.stdout + up.stderr
        assert is_up(shell.state)
        url = read_environment(shell.state)["RAY_API_SERVER_ADDRESS"]
        assert url in up.stdout
        pids = {process.pid for process in processes_of(shell.state)}
        again = shell.make("cluster-up")
        assert again.returncode == 0
        assert "already up" in again.stdout
        assert pids <= {process.pid for process in processes_of(shell.state)}

        assert (shell.state / "token").stat().st_mode & 0o077 == 0, "others can read the token"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/api/jobs/", timeout=10)
        assert refused.value.code == 401

        driver = shell.run(f"python -c '{DRIVER}'")
        assert driver.stdout == "1 node\n", driver.stderr
        script, saved = tmp_path / "job.py", tmp_path / "saved"
        script.write_text(JOB)
        job = shell.run(f"ray job submit -- python {script}")
        assert job.returncode == 0, job.stdout + job.stderr
        assert f"folder {ROOT}\n" in job.stdout
        assert f"root {ROOT}\n" in job.stdout
        assert f"python {sys.prefix}/bin/python" in job.stdout

        # A wrong input as on KubeRay: stopped, not failed, so that it is not tried again.
        wrong = shell.run(
            """ray job submit --runtime-env-json '{"env_vars": {"SALMASK_STOP_FINAL": "1"}}' """
            f"-- python jobs/precompute.py --data {tmp_path}/none --out {tmp_path}/made"
        )
        assert wrong.returncode == 0, wrong.stdout + wrong.stderr
        assert re.search(r"error: .*exit code 2: .*was stopped", wrong.stdout + wrong.stderr, re.S)

        # One that is left running: cluster-down lets it save, then ends it and its like.
        shell.run(f"ray job submit --no-wait --submission-id long -- python {script} {saved}")
        for _ in range(60):
            if "waiting" in shell.run("ray job logs long").stdout:
                break
        assert len(processes_mentioning(str(script))) > 0

        # The shell may be set up for another cluster, without a token for it.
        shell.env |= {"RAY_ADDRESS": "127.0.0.1:1", "RAY_AUTH_MODE": "token"}
        down = shell.make("cluster-down")
        assert down.returncode == 0, down.stdout + down.stderr
        assert "stopped the job long" in down.stdout
        assert saved.read_text() == "saved"
        assert processes_of(shell.state) == []
        assert processes_mentioning(str(script)) == []
        assert processes_mentioning(shell.ray_folder) == []
        assert not Path(shell.ray_folder, "ray", "ray_current_cluster").exists()
        assert bystander.poll() is None
        assert "no cluster" in shell.make("cluster-down").stdout
        assert files_of(Path(sys.prefix)) == before, "the environment is not written to"
        assert files_of(shell.home) == set()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_taken_port_is_named(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", shell.dashboard_port)):
        up = shell.make("cluster-up")
    assert up.returncode == 2
    assert f"port {shell.dashboard_port}" in up.stderr
    assert "DASHBOARD_PORT=" in up.stderr
    assert not shell.state.exists(), "a refused start writes nothing"
    with pytest.raises(InputError, match="port 70000"):
        require_free("CLUSTER_PORT", 70000)


def test_a_head_that_loses_a_process_ends(shell: Shell) -> None:
    assert shell.make("cluster-up").returncode == 0
    next(one for one in processes_of(shell.state) if one.name() == "gcs_server").kill()
    deadline = time.monotonic() + 60
    while processes_of(shell.state) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(shell.state) == []


def test_what_outlives_its_head_is_ended(tmp_path: Path) -> None:
    """Ray's agents, for one, which may try for a minute to report to a dead server."""
    state = tmp_path / "mine"
    spawn = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}])"
    command = [sys.executable, "-m", WATCHER, str(state), sys.executable, "-c"]
    command += [spawn + "; sys.exit(3)", "--block"]
    watcher = subprocess.Popen(command, env=os.environ | {"SALMASK_CLUSTER": str(state)})
    try:
        assert watcher.wait(60) == 3
        assert processes_of(state) == []
    finally:
        stop(state)


def test_what_a_crashed_head_has_left_is_ended(tmp_path: Path) -> None:
    """Those with the marker of this folder, whatever started them; no others."""
    spawn = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"
    command = [sys.executable, "-c", spawn]
    started = [
        subprocess.Popen(command, env=os.environ | {"SALMASK_CLUSTER": str(state)})
        for state in (tmp_path / "mine", tmp_path / "another's")
    ]
    try:
        while not all(psutil.Process(one.pid).children() for one in started):
            assert all(one.poll() is None for one in started)
            time.sleep(0.05)
        assert len(processes_of(tmp_path / "mine")) == 2
        assert not is_up(tmp_path / "mine")
        stop(tmp_path / "mine")
        started[0].wait(10)
        assert processes_of(tmp_path / "mine") == []
        assert started[1].poll() is None
    finally:
        stop(tmp_path / "another's")
        for one in started:
            one.wait(10)


def files_of(folder: Path) -> set[Path]:
    """All files below a folder, but for what Python compiles."""
    return {path for path in folder.rglob("*") if path.suffix != ".pyc" and path.is_file()}


def processes_mentioning(text: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(text in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
