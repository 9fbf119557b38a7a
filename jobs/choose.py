"""Choose the images of a pool that are most like those of a target, for a pretraining on them."""

import importlib
from shlex import quote

from jobs.cli import absolute_paths, conclude, main, parse
from pipeline.core.progress import say
from training.select.config import ChooseConfig

PLACES = ("pool", "target", "out", "checkpoint", "target_checkpoint")


def run() -> None:
    """Parse, score here or on Ray, choose, say where the selection is."""
    brief = (*PLACES, "budget", "score", "diversity", "local")
    config = absolute_paths(
        parse(ChooseConfig, "jobs/choose.py", brief=brief, positional=PLACES[:3]), *PLACES
    )
    say(f"choosing {config.budget:g} of {config.pool} by {config.score} to {config.target}")
    # Torch and Ray take seconds to import: after the command line, and only where they are used.
    work = importlib.import_module("training.select.run")
    if config.local:
        threads = importlib.import_module("training.core.threads")
        with threads.sharing_threads(fixed=threads.threads_set_by_user()):
            chosen = work.choose(config)
    else:
        ray_job = importlib.import_module("pipeline.precompute.ray_job")
        with ray_job.ray_running():
            chosen = work.choose(config, ray_job.map_on_ray)
    conclude(
        {"out": config.out, "images": len(chosen.numbers), "digest": chosen.digest},
        f"results    {len(chosen.numbers)} images: {config.out} (next: jobs/pretrain.py --shards "
        f"{quote(str(config.pool))} --selection {quote(str(config.out))} --out RUN)",
    )


if __name__ == "__main__":
    main(run)
