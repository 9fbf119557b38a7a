"""A Ray head on this machine, with a dashboard and a job server that demand a token.

Everything that the head starts, jobs included, inherits the environment variable `MARKER`, so
exactly these processes can be ended. (`ray stop` ends every Ray of the machine.)
"""

import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.core.errors import InputError

MARKER = "SALMASK_CLUSTER"
"""Holds the folder of the head's files."""
WATCHER = "jobs.local_head"
"""This module, run as a program: the parent of `ray start`."""
ENV_FILE, TOKEN_FILE = "env", "token"
START_TIMEOUT_S = 90.0
JOB_STOP_WAIT_S = 60
"""Time between SIGTERM and SIGKILL for a job. A checkpoint takes longer than Ray's default, 3 s."""


def start(state: Path, *, port: int, dashboard_port: int, num_cpus: int | None) -> None:
    """Start a head, its files in the absolute folder `state`; wait until its job server is there.

    A shell that sources the folder's `env` uses the head. Raises InputError for a port that is
    taken, or with the end of the log of a head that did not start.
    """
    stop(state)  # what a crashed head has left
    require_free("CLUSTER_PORT", port)
    require_free("DASHBOARD_PORT", dashboard_port)
    state.mkdir(parents=True, exist_ok=True)
    programs, token, log = Path(sys.executable).parent, state / TOKEN_FILE, state / "head.log"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
    shared = {
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard_port}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in shared.items()]
    lines += [f'export PATH={shlex.quote(str(programs))}:"$PATH"']
    (state / ENV_FILE).write_text("\n".join(lines) + "\n")
    own = {"RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_WAIT_S)} | os.environ | shared
    own |= {
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # one node has nowhere to drain to
        "SALMASK_ROOT": str(Path.cwd()),
        MARKER: str(state),
    }
    del own["RAY_ADDRESS"]  # `ray start` would connect to it
    command = [sys.executable, "-m", WATCHER, str(state)]
    command += [f"{programs}/ray", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--include-dashboard", "true", "--dashboard-host", "127.0.0.1"]
    command += ["--port", str(port), "--dashboard-port", str(dashboard_port)]
    # By default these two ports are fixed numbers, which other Rays of the machine use too.
    command += ["--dashboard-agent-listen-port", "0", "--ray-client-server-port", str(free_port())]
    command += [] if num_cpus is None else ["--num-cpus", str(num_cpus)]
    no_input = subprocess.DEVNULL
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=own, stdin=no_input, stdout=out, stderr=out, start_new_session=True
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while "--block" not in log.read_text(errors="replace"):  # Ray prints it at the very end
        if process.poll() is not None or time.monotonic() > deadline:
            stop(state)
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise InputError(f"the Ray head did not start; the end of {log}:\n{tail}")
        time.sleep(0.25)


def read_environment(state: Path) -> dict[str, str]:
    """The variables that the `env` of a head sets; empty if no head is up."""
    path = state / ENV_FILE
    words = shlex.split(path.read_text()) if path.exists() else []
    return dict(word.split("=", 1) for word in words if "=" in word)


def processes_of(state: Path) -> list[psutil.Process]:
    """All living processes of a head: those with its marker, and their descendants.

    A process that renames itself overwrites its environment; then a parent has the marker.
    """
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or belongs to another user
            if process.environ().get(MARKER) == str(state):
                found |= {process, *process.children(recursive=True)}
    return [one for one in found if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def is_up(state: Path) -> bool:
    """Whether the head itself runs, and not only what a crashed one has left."""
    for process in processes_of(state) if (state / ENV_FILE).exists() else ():
        with suppress(psutil.NoSuchProcess):
            command = process.cmdline()
            if "--block" in command and WATCHER not in command:
                return True
    return False


def stop(state: Path, *, grace_s: float = 15.0) -> None:
    """End the head and all its processes: SIGTERM, and SIGKILL after `grace_s` seconds."""
    end_processes(state, grace_s=grace_s)
    # Ray has noted the cluster's address, and `ray.init()` would try to connect to it for minutes.
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray/ray_current_cluster")
    port = read_environment(state).get("RAY_ADDRESS", "").rpartition(":")[2]
    if port and note.is_file() and note.read_text().endswith(f":{port}"):
        note.unlink()
    (state / ENV_FILE).unlink(missing_ok=True)


def end_processes(state: Path, *, grace_s: float) -> None:
    """SIGTERM for all processes of a head but the caller, SIGKILL after `grace_s` seconds."""
    found: set[psutil.Process] = set()
    for end, seconds in ((psutil.Process.terminate, grace_s), (psutil.Process.kill, 5.0)):
        found |= set(processes_of(state)) - {psutil.Process()}
        for process in found:
            with suppress(psutil.NoSuchProcess):
                end(process)
        psutil.wait_procs(found, timeout=seconds)


def watch(state: Path, command: list[str]) -> int:
    """Run `ray start`, which blocks; once it has ended, end what it has left.

    Returns its exit status. Ray's agents see at once that their head is dead, but some try for a
    minute to tell it so.
    """
    status = subprocess.call(command)
    end_processes(state, grace_s=15.0)
    return status


def stop_jobs(state: Path) -> list[str]:
    """Stop the jobs that wait or run, as `ray job stop` does, and wait until they have ended.

    Returns their submission ids. Raises ConnectionError if the job server does not answer, or
    refuses the token.
    """
    from ray.exceptions import AuthenticationError  # takes a second
    from ray.job_submission import JobSubmissionClient

    os.environ.pop("RAY_ADDRESS", None)  # of another cluster, for which Ray would want a token
    server = read_environment(state)["RAY_API_SERVER_ADDRESS"]
    token = (state / TOKEN_FILE).read_text()
    try:
        client = JobSubmissionClient(server, headers={"Authorization": f"Bearer {token}"})
        found = client.list_jobs()
    except AuthenticationError as error:
        raise ConnectionError(str(error).partition("\n")[0]) from error
    ids = [job.submission_id for job in found if not job.status.is_terminal()]
    stopped = sorted(filter(None, ids))
    for job in stopped:
        client.stop_job(job)
    deadline = time.monotonic() + JOB_STOP_WAIT_S + 5
    while time.monotonic() < deadline:
        if all(client.get_job_status(job).is_terminal() for job in stopped):
            break
        time.sleep(0.5)
    return stopped


def require_free(name: str, port: int) -> None:
    """Raise ``InputError`` for a port that something listens on; `name` is its make variable."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"port {port} cannot be used ({error}): is another Ray up? End it, or choose "
                f"another port: make cluster-up {name}={port + 1}"
            ) from error


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.create_server(("", 0)) as probe:
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(watch(Path(sys.argv[1]), sys.argv[2:]))
