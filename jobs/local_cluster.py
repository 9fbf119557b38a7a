"""A local Ray head with dashboard and job server, for one user on one machine.

Ray's own `ray stop` ends every Ray of the machine; here exactly the head that was started is
ended, with everything that descends from it. The head runs as `ray start --block` in a session
of its own. It lies in Ray's own temporary folder, where `ray job submit` and a plain `ray.init()`
look for the newest cluster of the machine (RAY_TMPDIR chooses another folder, for all of them).
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from jobs.job_server import JOB_STOP_WAIT_S, job_server_answers
from pipeline.core.errors import InputError

MARKER = "SALMASK_CLUSTER"
ROOT_VARIABLE = "SALMASK_ROOT"
START_TIMEOUT_S = 90.0


@dataclass(frozen=True, kw_only=True)
class Head:
    """A running head, as remembered in `state/head.json`.

    Attributes:
        pid: process id of `ray start --block`, and of the session it leads.
        created: when that process began, seconds since the epoch: pids are used again.
        marker: value of the environment variable that every process of this head inherits.
        port: port of the GCS, what `RAY_ADDRESS` names.
        dashboard_port: port of the dashboard and the job server, on 127.0.0.1.
    """

    pid: int
    created: float
    marker: str
    port: int
    dashboard_port: int

    @property
    def url(self) -> str:
        """Address of the dashboard and the job server."""
        return f"http://127.0.0.1:{self.dashboard_port}"


def start_head(
    root: Path,
    state: Path,
    *,
    port: int,
    dashboard_port: int,
    num_cpus: int | None = None,
) -> Head:
    """Start a head and wait until its job server answers.

    Args:
        root: folder in which jobs without `--working-dir` run.
        state: folder for the head's log and for `head.json`.
        port: port of the GCS.
        dashboard_port: port of the dashboard and the job server.
        num_cpus: CPUs that tasks share; None: all of the machine.

    Returns:
        The running head, also written to `state/head.json`.

    Raises:
        InputError: a port is taken, or the head did not start (with the end of its log).
    """
    for name, number in (("CLUSTER_PORT", port), ("DASHBOARD_PORT", dashboard_port)):
        require_free(name, number)
    state.mkdir(parents=True, exist_ok=True)
    marker = f"{os.getpid()}-{time.time_ns()}"
    log = state / "head.log"
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
    command += ["--port", str(port)]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port)]
    command += ["--include-dashboard", "true", "--disable-usage-stats"]
    # The defaults of these two are fixed numbers, which a second Ray of the machine also wants.
    command += ["--dashboard-agent-listen-port", "0", "--ray-client-server-port", str(free_port())]
    command += [] if num_cpus is None else ["--num-cpus", str(num_cpus)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=head_environment(root, marker),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    head = Head(
        pid=process.pid,
        created=psutil.Process(process.pid).create_time(),
        marker=marker,
        port=port,
        dashboard_port=dashboard_port,
    )
    (state / "head.json").write_text(json.dumps(asdict(head), indent=1) + "\n")
    deadline = time.monotonic() + START_TIMEOUT_S
    # Ray says "--block" when it has noted the new cluster's address for those who look for it.
    while "--block" not in log.read_text(errors="replace") or not job_server_answers(head.url):
        if process.poll() is not None or time.monotonic() > deadline:
            stop_head(head, state)
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise InputError(f"the Ray head did not start; the end of {log}:\n{tail}")
        time.sleep(0.25)
    return head


def running_head(state: Path) -> Head | None:
    """The head that `state/head.json` names, if it still runs."""
    head = remembered_head(state)
    if head is None or head_process(head) is None:
        return None
    return head


def remembered_head(state: Path) -> Head | None:
    """The head that `state/head.json` names, running or not."""
    try:
        return Head(**json.loads((state / "head.json").read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{state / 'head.json'} is damaged ({error}): see `ps` for a left-over"
            " `ray start --head --block`, end it, and remove the file"
        ) from error


def stop_head(head: Head, state: Path, *, grace_s: float = 15.0) -> int:
    """End a head and all that descends from it, and nothing else.

    Args:
        head: what `start_head` returned, alive or already dead.
        state: the folder it was remembered in; `head.json` is removed.
        grace_s: seconds between SIGTERM to the head and SIGKILL to all that is left.

    Returns:
        How many processes had to be killed.
    """
    known = set(processes_of(head))
    process = head_process(head)
    if process is not None:
        process.terminate()
        # Not before the head: its raylet ends the workers in good order.
        psutil.wait_procs(list(known), timeout=grace_s)
    # Once more: orphans have left the tree, and workers may have been born meanwhile.
    left = [p for p in known | set(processes_of(head)) if p.is_running()]
    for survivor in left:
        try:
            survivor.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=5)
    forget_address(head)
    (state / "head.json").unlink(missing_ok=True)
    return len(left)


def forget_address(head: Head) -> None:
    """Remove Ray's note of this cluster: who follows it would wait for minutes."""
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    note = folder / "ray" / "ray_current_cluster"
    if note.is_file() and note.read_text().endswith(f":{head.port}"):
        note.unlink()


def processes_of(head: Head) -> list[psutil.Process]:
    """All living processes of a head: its descendants, its session, those with its marker.

    Each of the three alone misses some: jobs lead sessions of their own, orphans have left the
    tree, and a process that renames itself overwrites the environment that others can read.
    """
    found: set[psutil.Process] = set()
    leader = head_process(head)
    if leader is not None:
        found = {leader, *leader.children(recursive=True)}
    for process in psutil.process_iter():
        try:
            if process.create_time() < head.created or process.pid == os.getpid():
                continue
            in_session = not pid_used_again(head) and os.getsid(process.pid) == head.pid
            if in_session or process.environ().get(MARKER) == head.marker:
                found.add(process)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or of another user
    return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def head_process(head: Head) -> psutil.Process | None:
    """The process of `ray start --block`, or None when it is gone or its pid is another's now."""
    if pid_used_again(head):
        return None
    try:
        process = psutil.Process(head.pid)
        return process if process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def pid_used_again(head: Head) -> bool:
    """Whether the head's pid is another process's by now, and so is the session of that number.

    While anything of the head's session lives, the system does not give its number away.
    """
    try:
        return abs(psutil.Process(head.pid).create_time() - head.created) > 1.0
    except psutil.NoSuchProcess:
        return False


def head_environment(root: Path, marker: str) -> dict[str, str]:
    """The environment of the head, which every job inherits."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    folder = str(Path(sys.executable).parent)
    environment["PATH"] = folder + os.pathsep + environment.get("PATH", os.defpath)
    environment["RAY_AUTH_MODE"] = "token"
    environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # one node: nowhere to drain to
    environment.setdefault("RAY_JOB_STOP_WAIT_TIME_S", str(JOB_STOP_WAIT_S))
    environment[ROOT_VARIABLE] = str(root.resolve())
    environment[MARKER] = marker
    return environment


def require_free(name: str, port: int) -> None:
    """Refuse a port that something listens on; `name` is how a person sets another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"port {port} cannot be used ({error}): is another Ray up?"
                f" End it, or choose another port: make cluster-up {name}={port + 1}"
            ) from error


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
