"""Objects with typical backgrounds: an untrained network, a baseline and the method, compared.

Makes the pictures, computes saliency, trains baseline and method at once, a core each and without
Ray, and scores all three networks on usual and on changed backgrounds.
"""

import importlib
import sys
from functools import partial

from jobs.cli import conclude, from_root, main, parse
from pipeline.core.errors import Stopped
from pipeline.core.progress import duration, say
from pipeline.demo.clock import Clock
from pipeline.demo.pictures import make_demo_pictures
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import build_here, run_precompute
from training.demo.config import DemoConfig

NUM_PROCESSES = 2


def run() -> int:
    """Make what is missing, score, print the table; 1 where the method learned nothing."""
    config = parse(DemoConfig, "jobs/demo.py")
    out = from_root(config.out)
    work = out / f"seed-{config.seed}"
    clock, was_done = Clock(work / "seconds.json"), (work / "result.json").exists()
    train, test = config.num_train, config.num_test
    say(f"making {train + 2 * test:,} pictures of 8 kinds in {work}")
    make_demo_pictures(
        work,
        num_train=train,
        num_usual=test,
        num_changed=test,
        seed=config.seed,
        num_processes=NUM_PROCESSES,
    )
    pictures = work / "pictures"
    if config.only_pictures:
        conclude({"pictures": pictures}, f"results    {pictures} (next: jobs/precompute.py)")
        return 0
    try:
        saliency = PrecomputeConfig(data=pictures / "train", out=work / "shards")
        run_precompute(saliency, partial(build_here, num_processes=NUM_PROCESSES))
        # Torch takes seconds to import, and the processes that draw import this file.
        demo = importlib.import_module("training.demo.run")
        plan = demo.DemoPlan(work=work, out=out, seed=config.seed, epochs=config.epochs)
        finished = demo.train_and_evaluate(plan)
    finally:
        if not was_done:
            clock.stop()
    if not finished:
        conclude({"out": out, "finished": False}, "stopped: the same command goes on")
        return Stopped.exit_code
    kept = out / "evaluations"
    outcome = demo.read_outcome(kept)
    result = outcome.result(clock.seconds)
    for folder in (out, work):
        demo.write_result(folder, result)
    page = importlib.import_module("training.report.demo_page").write_demo_page(plan, outcome)
    conclude(
        {"out": out, "finished": True, **result},
        *demo.table(outcome),
        *([] if outcome.has_learned else ["The method is not better than the untrained network."]),
        f"\npictures   {pictures} (true masks in {work / 'masks'})",
        f"masks      {out / 'contact_sheet.png'}",
        f"backbone   {work / 'method' / 'backbone'}",
        f"compare    {sys.executable} jobs/compare.py {kept / 'baseline'} {kept / 'method'}",
        f"done in {duration(clock.seconds)}; results in {page} and {out / 'result.json'}",
    )
    return 0 if outcome.has_learned else 1


if __name__ == "__main__":
    main(run)
