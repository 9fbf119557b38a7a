"""Score checkpoints on labelled images, compare them in a table, and record every figure."""

import importlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from jobs.cli import absolute_paths, conclude, from_root, main, parse
from pipeline.core.progress import say
from pipeline.storage.atomic import check_writable
from pipeline.storage.storage import is_url
from training.evaluate.config import DETECTION, RESULTS_FILE, EvaluateConfig

if TYPE_CHECKING:
    from training.evaluate.results import Result

BRIEF = ("checkpoint", "train", "val", "protocol", "encoder", "results", "local", "num_workers")


def run() -> None:
    """Parse, evaluate here or on Ray, give the table."""
    config = parse(EvaluateConfig, "jobs/evaluate.py", brief=BRIEF, positional=BRIEF[:3])
    # These import torch, which --help goes without.
    from training.core.context import LocalContext
    from training.core.threads import sharing_threads, threads_set_by_user
    from training.evaluate.encoders import is_path
    from training.evaluate.run import chosen_protocols, evaluate

    chosen_protocols(config.protocol)  # an unknown name is said before anything starts
    checkpoints = tuple(
        str(from_root(n)) if is_path(n) and not is_url(n) else n for n in config.checkpoint
    )
    config = absolute_paths(replace(config, checkpoint=checkpoints), "train", "val", "results")
    say(
        f"scoring {', '.join(checkpoints)} by {', '.join(config.protocol)}: images of "
        f"{config.train} to learn from, of {config.val} to score on; every figure goes to "
        f"{config.results}"
    )
    check_writable(config.results)
    if config.local:
        with sharing_threads(fixed=threads_set_by_user()):
            results = evaluate(config, LocalContext().device)
    else:
        # Ray takes seconds to import: only where it is used.
        ray_session = importlib.import_module("pipeline.precompute.ray_session")
        workers = importlib.import_module("training.ray.workers")
        with ray_session.ray_running():
            results = workers.call_on_workers(evaluate, config, config.workers, config.results)
    conclude(
        {"file": config.results / RESULTS_FILE, "results": [asdict(result) for result in results]},
        *tables(results),
        f"results    {config.results} (jobs/compare.py compares such folders, jobs/export.py "
        "--results puts figures on a model card)",
    )


def tables(results: "list[Result]") -> Iterator[str]:
    """Lines of a table of each kind: accuracies or precisions, cosines, uncertainty, others."""
    from training.evaluate.results import table

    kinds: dict[str, list[Result]] = {}
    for result in results:
        kind = "average precision in %" if result.protocol == DETECTION else "top-1 in %"
        if result.protocol == "channels":
            kind = "cost of an image (ms: 95 % of the rounds)"
        elif result.name == "cosine":
            kind = "cosine"
        elif result.protocol == "uncertainty":
            kind = "uncertainty"
        elif result.interval is None:
            kind = "other figures"
        kinds.setdefault(kind, []).append(result)
    for kind, some in kinds.items():
        yield f"\n{kind}, {some[0].num_val} validation images\n{table(some)}\n"


if __name__ == "__main__":
    main(run)
