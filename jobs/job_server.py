"""The job server's token, and the few questions asked of the server itself.

The job server runs whatever it is sent, so it demands Ray's token. Ray's command line sends that
token only where RAY_AUTH_MODE=token is set (its default is "disabled", although clusters start
with authentication as soon as a token exists): `send_token_by_default` makes it the default of one
environment, so that `ray job submit` works as it is typed, in any new shell.
"""

import json
import os
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path

# What a job gets between SIGTERM and SIGKILL. Ray's own 3 s are too short to save a checkpoint.
JOB_STOP_WAIT_S = 60
# A line of a .pth file runs whenever a Python of the environment starts.
SWITCH = (
    "import os; os.path.exists(os.path.expanduser('~/.ray/auth_token'))"
    " and os.environ.setdefault('RAY_AUTH_MODE', 'token')\n"
)


def ensure_token() -> None:
    """Make Ray's token where there is none, readable by its owner only."""
    folder = Path.home() / ".ray"
    folder.mkdir(mode=0o700, exist_ok=True)
    ray = Path(sys.executable).parent / "ray"
    # Ray writes the file with the permissions that the umask leaves; the token goes to stdout.
    subprocess.run(
        [ray, "get-auth-token", "--generate"], umask=0o077, check=True, capture_output=True
    )
    token = folder / "auth_token"
    if token.exists():
        token.chmod(0o600)


def read_token() -> str:
    """The token, looked up in Ray's own order: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, the home."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    default = Path.home() / ".ray" / "auth_token"
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or default).read_text().strip()


def send_token_by_default() -> None:
    """Let every Python of this environment send the token, if one exists and no mode is set."""
    switch = Path(sysconfig.get_path("purelib")) / "salmask_ray_token.pth"
    if not switch.exists() or switch.read_text() != SWITCH:
        switch.write_text(SWITCH)


def stop_jobs(url: str) -> list[str]:
    """Stop the running jobs as `ray job stop` does (SIGTERM first) and wait for them.

    Returns:
        The submission ids of the jobs that were running.
    """
    ids = running_jobs(url)
    for job in ids:
        request_json(url, f"/api/jobs/{job}/stop", method="POST")
    deadline = time.monotonic() + JOB_STOP_WAIT_S + 5
    while set(ids) & set(running_jobs(url)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return ids


def running_jobs(url: str) -> list[str]:
    """Submission ids of the jobs that wait or run."""
    jobs = request_json(url, "/api/jobs/")
    assert isinstance(jobs, list)
    alive = [job for job in jobs if job.get("status") in ("PENDING", "RUNNING")]
    return [job["submission_id"] for job in alive if job.get("submission_id")]


def job_server_answers(url: str) -> bool:
    """Whether the job server accepts our token and lists its jobs."""
    try:
        request_json(url, "/api/jobs/")
    except OSError:
        return False
    return True


def request_json(url: str, path: str, method: str = "GET") -> object:
    """Ask the job server; raises OSError (urllib's errors are) when it does not answer."""
    headers = {"Authorization": f"Bearer {read_token()}"}
    request = urllib.request.Request(url + path, method=method, headers=headers)
    # No proxy: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        return json.loads(answer.read())
