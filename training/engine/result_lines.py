"""What is printed at the end of a pretraining."""

from training.config.pretrain import PretrainConfig
from training.data.damage import DAMAGED_FILE
from training.engine.loop import RunResult
from training.record.metrics import LEARNING, read_metrics


def result_lines(result: RunResult, config: PretrainConfig) -> list[str]:
    """Lines for people about a run that has finished or was stopped."""
    if not result.finished:
        where = f"step {result.step} of {result.total_steps}"
        return [f"stopped at {where}; the same command goes on from there"]
    if result.ran:
        lines = [f"finished {result.total_steps} steps"]
    else:
        lines = [f"nothing to do: this run of {result.total_steps} steps is already finished"]
    shown = {name: result.values[name] for name in ("loss", "knn") if name in result.values}
    lines += [f"{name:10} {value:.4g}" for name, value in shown.items()]
    verdicts = [e["message"] for e in read_metrics(config.out) if e["kind"] == LEARNING]
    lines += [f"learning   {verdict}" for verdict in verdicts[-1:]]
    if result.values.get("damaged_samples"):
        count = result.values["damaged_samples"]
        lines.append(f"damaged    {count:.0f} samples were skipped: {config.out / DAMAGED_FILE}")
    return [
        *lines,
        f"backbone   {config.out / 'backbone'}",
        f"masks      {config.out / 'contact_sheet.png'}",
        f"metrics    {config.out / 'metrics.jsonl'}, tensorboard --logdir {config.out}",
        f"results    {config.out} (next: jobs/report.py, jobs/evaluate.py --checkpoint)",
    ]
