"""Pretrains a backbone by contrastive learning on precomputed shards."""

import argparse
import importlib
import sys

from torch import distributed as dist

from jobs.base_config import BASE_HELP, absolute, find_base
from jobs.cli import main, parse
from training.config import PretrainConfig
from training.data.damage import DAMAGED_FILE
from training.loop import RunResult


def read_command_line(arguments: list[str]) -> tuple[str, bool, PretrainConfig]:
    """Reads recipe, place and configuration from the command line.

    Returns:
        What the fields start from, whether to run without Ray, and the configuration, paths
        absolute.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--local", action="store_true")
    chosen, rest = first.parse_known_args(arguments)
    name, base, rest = find_base(rest)
    config = parse(
        PretrainConfig,
        "jobs/pretrain.py",
        rest,
        default=base,
        description=(
            f"{__doc__} {BASE_HELP} The same command resumes a run that was broken off. "
            "--local runs in this process, without Ray; under torchrun its processes are the "
            "workers."
        ),
    )
    return name, chosen.local or dist.is_torchelastic_launched(), absolute(config)


def run() -> None:
    """Parses, pretrains, says where the results are."""
    recipe, local, config = read_command_line(sys.argv[1:])
    print(
        f"pretraining {config.encoder.architecture} by {config.method} ({recipe}) on "
        f"{config.shards}: {config.epochs} epochs, masks {config.masks.strategy}, "
        f"fill {config.fill}, hard negatives {len(config.method_config.negative_views)}",
        flush=True,
    )
    # Ray takes seconds to import: only where it is used.
    launcher = importlib.import_module("training.local" if local else "training.cluster.launch")
    result: RunResult = launcher.launch(config)
    if not result.finished:
        print(
            f"stopped at step {result.step} of {result.total_steps}; "
            "the same command goes on from there"
        )
        return
    if result.ran:
        print(f"finished {result.total_steps} steps")
    else:
        print(f"nothing to do: this run of {result.total_steps} steps is already finished")
    shown = {name: result.values[name] for name in ("loss", "knn") if name in result.values}
    print("".join(f"{name:10} {value:.4g}\n" for name, value in shown.items()), end="")
    if result.values.get("damaged_samples"):
        count = result.values["damaged_samples"]
        print(f"damaged    {count:.0f} samples were skipped: {config.out / DAMAGED_FILE}")
    print(f"backbone   {config.out / 'backbone'}")
    print(f"masks      {config.out / 'contact_sheet.png'}")
    print(f"metrics    {config.out / 'metrics.jsonl'}, tensorboard --logdir {config.out}")


if __name__ == "__main__":
    main(run)
