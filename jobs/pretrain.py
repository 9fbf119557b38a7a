"""Pretrains a backbone by contrastive learning on precomputed shards."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from torch import distributed as dist

from jobs.base_config import BASE_HELP, METHOD_HELP, RECIPE_HELP, absolute, find_base
from jobs.cli import conclude, main, parse
from jobs.options import Groups
from pipeline.core.progress import say
from pipeline.shardset.manifest import load_dataset_info
from training.config.pretrain import PretrainConfig
from training.data.damage import DAMAGED_FILE
from training.engine.loop import RunResult
from training.record.metrics import LEARNING, read_metrics


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """Where a pretraining runs, and what its settings start from.

    Attributes:
        config: file that the settings start from: a run's config.json, or a sweep's best.json.
        local: run in this process, without Ray; so it is under torchrun, whose processes are the
            workers.
    """

    recipe: Annotated[str | None, tyro.conf.arg(help=RECIPE_HELP)] = None
    config: Path | None = None
    method: Annotated[str | None, tyro.conf.arg(help=METHOD_HELP)] = None
    local: bool = False
    base: Annotated[PretrainConfig, tyro.conf.arg(name="")]

    groups: ClassVar[Groups] = {
        "start": (
            "What the settings start from, and where it runs.",
            ("recipe", "config", "method", "local"),
        )
    }


def read_command_line(arguments: Sequence[str]) -> tuple[str, bool, PretrainConfig]:
    """Reads recipe, place and configuration from the command line.

    Returns:
        What the fields start from, whether to run without Ray, and the configuration, paths
        absolute.
    """
    name, base = find_base(arguments)
    options = parse(
        PretrainOptions,
        "jobs/pretrain.py",
        arguments,
        default=PretrainOptions(base=base),
        description=f"{__doc__} The same command resumes a run that was broken off. {BASE_HELP}",
    )
    return name, options.local or dist.is_torchelastic_launched(), absolute(options.base)


def run() -> None:
    """Parses, pretrains, says where the results are."""
    recipe, local, config = read_command_line(sys.argv[1:])
    num_images = round(config.data_fraction * load_dataset_info(config.shards).num_images)
    say(
        f"pretraining {config.encoder.architecture} by {config.method.name} ({recipe}) on "
        f"{num_images} images of {config.shards} for {config.epochs} epochs, into {config.out}: "
        f"masks {config.masks.strategy}, fill {config.fill}, hard negatives "
        f"{len(config.method.negative_views)}"
    )
    # Ray takes seconds to import: only where it is used.
    launcher = importlib.import_module("training.engine.local" if local else "training.ray.launch")
    result: RunResult = launcher.launch(config)
    conclude(
        {
            "out": config.out,
            "finished": result.finished,
            "step": result.step,
            "total_steps": result.total_steps,
            "values": result.values,
        },
        *(results_of(result, config) if result.finished else stopped(result)),
    )


def stopped(result: RunResult) -> list[str]:
    """What is said of a run that was stopped."""
    where = f"step {result.step} of {result.total_steps}"
    return [f"stopped at {where}; the same command goes on from there"]


def results_of(result: RunResult, config: PretrainConfig) -> list[str]:
    """What is said of a run that is complete."""
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


if __name__ == "__main__":
    main(run)
