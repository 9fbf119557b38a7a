"""The state of a run at its end, and the lines about it that a job prints."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.storage.atomic import write_atomically
from pipeline.storage.storage import fetched
from training.config.pretrain import PretrainConfig
from training.core.checkpoint import CheckpointStore
from training.data.damage import DAMAGED_FILE
from training.record.metrics import LEARNING, METRICS_FILE, latest_values, read_metrics

FAILED_FILE = "failed_step.json"
"""The last step of a run that diverged or collapsed: its number, seed and images."""


@dataclass(frozen=True)
class RunResult:
    """The global steps that a run has done and those of the whole run.

    Attributes:
        values: the last numbers of the record.
        ran: whether there was anything left to do.
    """

    step: int
    total_steps: int
    values: dict[str, float]
    ran: bool = True

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self.step == self.total_steps


def recorded_result(config: PretrainConfig, total_steps: int, *, ran: bool) -> RunResult:
    """The state of a run as its folder has it."""
    done = max(CheckpointStore(config.out / "checkpoints").steps(), default=0)
    return RunResult(done, total_steps, latest_values(config.out), ran)


def result_lines(result: RunResult, config: PretrainConfig) -> list[str]:
    """Lines for people about a run that has finished or was stopped."""
    total, place = result.total_steps, config.place
    if not result.finished:
        return [f"stopped at step {result.step} of {total}; the same command goes on from there"]
    done = f"nothing to do: this run of {total} steps is already finished"
    lines, values = [f"finished {total} steps" if result.ran else done], result.values
    lines += [f"{name:10} {values[name]:.4g}" for name in ("loss", "knn") if name in values]
    record = read_metrics(fetched(config.bucket or config.out, METRICS_FILE))
    verdicts = [entry["message"] for entry in record if entry["kind"] == LEARNING]
    lines += [f"learning   {verdict}" for verdict in verdicts[-1:]]
    if count := values.get("damaged_samples"):
        lines.append(f"damaged    {count:.0f} samples were skipped: {place}/{DAMAGED_FILE}")
    return [
        *lines,
        f"backbone   {place}/backbone",
        f"masks      {place}/contact_sheet.png",
        f"metrics    {place}/{METRICS_FILE}, tensorboard --logdir {place}",
        f"results    {place} (next: jobs/report.py, jobs/evaluate.py --checkpoint)",
    ]


def write_failed_step(
    config: PretrainConfig, step: int, reason: str, images: Sequence[str]
) -> None:
    """Writes what the last step was, 1 or more, and its images' keys; for ``--replay-step``."""
    failed = {"step": step, "seed": config.seed, "reason": reason, "images": list(images)}
    write_atomically(config.out / FAILED_FILE, json.dumps(failed, indent=1).encode())
