"""Have Ray note a job as stopped, not failed, where a new cluster would meet the same error."""

import json
import os
import sys
import time

from pipeline.core.errors import Collapsed, DamagedSample, Diverged, InputError

STOP_FINAL = "SALMASK_STOP_FINAL"
"""Environment variable of a job's driver; set: `stop_if_final` does something."""
FINAL_CODES = {kind.exit_code for kind in (InputError, DamagedSample, Diverged, Collapsed)}
STOP_WAIT_S = 60.0


def stop_if_final(code: int) -> None:
    """Stop the Ray job that this process is, if its error is one that stays.

    KubeRay makes a new cluster (`backoffLimit`) for a Ray job that is FAILED, whatever its exit
    code, and none for one that is STOPPED. Where the job cannot be stopped its exit code holds.

    Args:
        code: exit code that the process is about to end with.
    """
    if code not in FINAL_CODES or STOP_FINAL not in os.environ:
        return
    from ray.job_submission import JobSubmissionClient  # takes a second

    print(f"exit code {code}: no new cluster would mend this: stopping the job", file=sys.stderr)
    sys.stderr.flush()
    try:
        own = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]
        JobSubmissionClient().stop_job(own["job_submission_id"])
        time.sleep(STOP_WAIT_S)  # the job server ends this process meanwhile
    except (KeyError, ConnectionError, RuntimeError) as error:
        print(f"the job could not be stopped: {error!r}", file=sys.stderr)
