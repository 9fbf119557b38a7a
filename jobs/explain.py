"""Train a network that marks what a backbone recognises images by, as a saliency source."""

from dataclasses import replace
from shlex import quote

from jobs.cli import absolute_paths, conclude, from_root, main, parse
from pipeline.core.errors import Stopped
from pipeline.core.progress import say
from training.explain.config import UNTRAINED, ExplainConfig

BRIEF = ("checkpoint", "shards", "out", "second", "prototypes", "area", "steps", "batch_size")


def run() -> int:
    """Parse, train, say how the explainer is used; `Stopped.exit_code` before the end."""
    config = parse(ExplainConfig, "jobs/explain.py", brief=BRIEF, positional=BRIEF[:3])
    config = absolute_paths(config, "checkpoint", "shards", "out")
    if config.second != UNTRAINED:
        config = replace(config, second=str(from_root(config.second)))
    say(
        f"explaining {config.checkpoint} on {config.shards} by {config.prototypes} prototypes, in "
        f"{config.steps} steps, into {config.out}"
    )
    # These import torch, which --help goes without.
    from training.explain.train import explain
    from training.record.metrics import latest_values

    finished = explain(config)
    values, end = latest_values(config.out), "stopped: the same command goes on from there"
    if finished:
        source = quote(f"explain:weights={config.out}")
        end = (
            f"results    {config.out} (next: --saliency {source} of "
            "jobs/precompute.py or jobs/score.py)"
        )
    lines = [f"{name:12} {value:.3f}" for name, value in values.items()]
    conclude({"out": config.out, "finished": finished, **values}, *lines, end)
    return 0 if finished else Stopped.exit_code


if __name__ == "__main__":
    main(run)
