"""Pretrain a backbone by contrastive learning on precomputed shards."""

import importlib
import sys
from dataclasses import asdict

from jobs.cli import conclude, main
from jobs.pretrain_options import read_options, runs_here, without_ray
from pipeline.core.errors import Stopped
from pipeline.core.progress import numbered, say
from pipeline.shardset.manifest import load_dataset_info
from training.config.pretrain import PretrainConfig
from training.data.selection import read_selection


def run() -> int:
    """Parse, pretrain, say where the results are; `Stopped.exit_code` before the end."""
    recipe, options = read_options(sys.argv[1:])
    config, local = options.base, without_ray(local=options.local, on_ray=options.ray)
    if options.replay_step is not None:
        return _replay(config, options.replay_step)
    num_images = round(config.data_fraction * load_dataset_info(config.shards).num_images)
    if config.selection is not None:
        num_images = len(read_selection(config.selection).numbers)
    object_head = getattr(config.method, "object_head", "off")
    say(
        f"pretraining {config.encoder.architecture} by {config.method.name} ({recipe}) on "
        f"{numbered(num_images, 'image')} of {config.shards} for "
        f"{numbered(config.epochs, 'epoch')}, into {config.place}: "
        f"masks {config.masks.strategy}, object head {object_head}, fill {config.fill}"
    )
    # Torch and Ray take seconds to import: after the command line, and only where they are used.
    from training.engine.result import result_lines

    here = runs_here(local, config.num_workers)
    launcher = importlib.import_module("training.engine.local" if here else "training.ray.launch")
    result = launcher.launch(config)
    counts = {"step": result.step, "total_steps": result.total_steps, "values": result.values}
    conclude(
        {"out": config.place, "finished": result.finished, **counts},
        *result_lines(result, config),
    )
    return 0 if result.finished else Stopped.exit_code


def _replay(config: PretrainConfig, step: int) -> int:
    from training.engine.replay_step import replay_lines, replay_step

    say(f"running step {step} of {config.place} again")
    found = replay_step(config, step)
    conclude(asdict(found), *replay_lines(found))
    return 0


if __name__ == "__main__":
    main(run)
