"""Train a network that marks what a backbone recognises images by: a saliency source."""

from jobs.cli import absolute_paths, conclude, main, parse
from pipeline.core.progress import say
from training.explain.config import ExplainConfig

BRIEF = ("checkpoint", "shards", "out", "second", "prototypes", "area", "steps", "batch_size")


def run() -> None:
    """Parse, train, say how the masks are used."""
    config = parse(ExplainConfig, "jobs/explain.py", brief=BRIEF)
    config = absolute_paths(config, "checkpoint", "shards", "out")
    say(
        f"explaining {config.checkpoint} on {config.shards}: {config.steps} steps, "
        f"{config.prototypes} prototypes, into {config.out}"
    )
    # Torch takes seconds to import, and --help does without.
    from training.explain.train import explain
    from training.record.metrics import latest_values

    finished = explain(config)
    values = latest_values(config.out)
    if not finished:
        lines = ["stopped before the end; the same command goes on from there"]
    else:
        lines = [f"{name:12} {value:.3f}" for name, value in values.items()]
        lines.append(
            f"results    {config.out} (next: --saliency explain:weights={config.out} of "
            "jobs/precompute.py and jobs/score.py)"
        )
    conclude({"out": config.out, "finished": finished, "values": values}, *lines)


if __name__ == "__main__":
    main(run)
