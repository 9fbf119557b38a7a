"""A job that no new cluster would mend is stopped; any other one fails."""

import json

import pytest
import ray.job_submission

from jobs.cli import main
from jobs.final_error import STOP_FINAL
from pipeline.core.errors import (
    Collapsed,
    DamagedSample,
    Diverged,
    InputError,
    JobError,
    RayUnavailable,
    Stopped,
    StoreUnavailable,
)

FINAL = (InputError, DamagedSample, Diverged, Collapsed)
PASSING = (StoreUnavailable, RayUnavailable, Stopped)
JOB = json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": "salmask-1"}})


class Killed(BaseException):
    """Stands for the signal that the job server sends."""


class Server:
    """A job server that ends the job's process at once."""

    def stop_job(self, job: str) -> bool:
        raise Killed(job)


def ended_by(error: type[JobError]) -> None:
    def run() -> None:
        raise error("it is like this")

    main(run, is_process=False)


@pytest.fixture
def job_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", Server)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", JOB)
    monkeypatch.setenv(STOP_FINAL, "1")


@pytest.mark.usefixtures("job_server")
@pytest.mark.parametrize("error", FINAL)
def test_an_error_that_stays_stops_the_job(
    error: type[JobError], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed, match="salmask-1"):
        ended_by(error)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: it is like this"
    assert second.startswith(f"exit code {error.exit_code}: no new cluster would mend this")


@pytest.mark.usefixtures("job_server")
@pytest.mark.parametrize("error", PASSING)
def test_what_may_pass_fails_with_its_exit_code(error: type[JobError]) -> None:
    with pytest.raises(SystemExit) as left:
        ended_by(error)
    assert left.value.code == error.exit_code


@pytest.mark.usefixtures("job_server")
def test_without_the_switch_or_a_job_server_the_exit_code_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(STOP_FINAL)
    with pytest.raises(SystemExit, match="2"):
        ended_by(InputError)
    monkeypatch.setenv(STOP_FINAL, "1")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    with pytest.raises(SystemExit, match="2"):
        ended_by(InputError)
    assert "the job could not be stopped: KeyError" in capsys.readouterr().err


def test_every_exit_code_is_sorted() -> None:
    assert {*FINAL, *PASSING} == set(JobError.__subclasses__())
