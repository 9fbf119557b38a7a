"""A job that no new cluster would mend is stopped; any other one fails."""

from contextlib import nullcontext
from typing import Any

import pytest
import ray.job_submission

from jobs.final_error import STOP_FINAL, stop_if_final
from pipeline.core.errors import JobError


class Server:
    """A job server, whose signal ends the process."""

    def stop_job(self, job: str) -> None:
        raise KeyboardInterrupt(job)


def test_only_errors_that_stay_stop_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", Server)
    job = '{"metadata": {"job_submission_id": "salmask-1"}}'
    for name, value in ((STOP_FINAL, "1"), ("RAY_JOB_CONFIG_JSON_ENV_VAR", job)):
        stop_if_final(2)  # without the switch, and outside a job
        monkeypatch.setenv(name, value)
    for kind in JobError.__subclasses__():
        stays = kind.__name__ in ("InputError", "DamagedSample", "Diverged", "Collapsed")
        ends: Any = pytest.raises(KeyboardInterrupt, match="mask-1") if stays else nullcontext()
        with ends:
            stop_if_final(kind.exit_code)
