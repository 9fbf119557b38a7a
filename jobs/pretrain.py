"""Pretrains a backbone by contrastive learning on precomputed shards."""

import argparse
import dataclasses
import sys
from pathlib import Path

import tyro

from jobs.cli import run_job
from training.config import PretrainConfig
from training.recipes import RECIPES, find_recipe


def parse(arguments: list[str]) -> tuple[str, bool, PretrainConfig]:
    """Reads recipe, place and configuration from the command line.

    Returns:
        The recipe's name, whether to run without Ray, and the configuration, paths absolute.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", default="moco_v2_small")
    first.add_argument("--local", action="store_true")
    chosen, rest = first.parse_known_args(arguments)
    recipe = find_recipe(chosen.recipe)
    config = tyro.cli(
        PretrainConfig,
        default=recipe(tyro.MISSING, tyro.MISSING),
        args=rest,
        description=(
            f"{__doc__}\n\nStarts from --recipe ({', '.join(RECIPES)}; default moco_v2_small), of "
            "which any field can be changed. The same command resumes a run that was broken off. "
            "--local runs in this process, without Ray."
        ),
    )
    knn = dataclasses.replace(
        config.knn,
        val_shards=_absolute(config.knn.val_shards),
        train_shards=_absolute(config.knn.train_shards),
    )
    config = dataclasses.replace(
        config, shards=config.shards.absolute(), out=config.out.absolute(), knn=knn
    )
    return chosen.recipe, chosen.local, config


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def main() -> int:
    """Parses, pretrains, says where the results are."""
    recipe, local, config = parse(sys.argv[1:])
    print(
        f"pretraining {config.encoder.architecture} ({recipe}) on {config.shards}: "
        f"{config.epochs} epochs, masks {config.masks.strategy}, fill {config.fill}, "
        f"hard negatives {config.moco.hard_negatives}",
        flush=True,
    )
    if local:
        from training.local import launch
    else:
        from training.launch import launch  # Ray takes seconds to import: only where it is used
    result = launch(config)
    values = ", ".join(f"{name} {value:.4g}" for name, value in sorted(result.values.items()))
    if not result.finished:
        print(
            f"stopped at step {result.step} of {result.total_steps}; "
            "the same command goes on from there"
        )
        return 0
    if not values:
        print(f"nothing to do: this run of {result.total_steps} steps is already finished")
    else:
        print(f"finished {result.total_steps} steps: {values}")
    print(f"backbone   {config.out / 'backbone'}")
    print(f"masks      {config.out / 'contact_sheet.png'}")
    print(f"metrics    {config.out / 'metrics.jsonl'}, tensorboard --logdir {config.out}")
    return 0


if __name__ == "__main__":
    run_job(main)
