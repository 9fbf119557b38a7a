"""Objects with typical backgrounds: an untrained network, a baseline and the method, compared.

Makes the pictures, computes saliency, trains baseline and method at once, a core each and without
Ray, and scores all three networks on usual and on changed backgrounds.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path

from jobs.cli import conclude, from_root, main, parse
from pipeline.core.errors import InputError, Stopped
from pipeline.core.progress import duration, say
from pipeline.demo.clock import Clock
from pipeline.demo.pictures import make_demo_pictures
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.local import precompute

NUM_PROCESSES = 2
CLOCK_FILE = "seconds.json"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo makes. The same command goes on after an interruption.

    Attributes:
        out: folder of the results; pictures, shards and runs go to `seed-N` in it.
        seed: of pictures, weights and draws, 0 or more.
        epochs: of both trainings, 1 or more; none: the recipes' (demo, demo_baseline).
        num_train: pictures to train with, 8 or more, a multiple of 8.
        num_test: pictures of each kind of background to score with, 8 or more, a multiple of 8.
        only_pictures: stop after making the pictures.
    """

    out: Path = Path("runs/demo")
    seed: int = 0
    epochs: int | None = None
    num_train: int = 3200
    num_test: int = 2000
    only_pictures: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0 or (self.epochs is not None and self.epochs < 1):
            raise InputError(f"seed {self.seed} must be 0 or more, epochs {self.epochs} 1 or more")
        for name in ("num_train", "num_test"):
            if (count := getattr(self, name)) < 8 or count % 8:
                raise InputError(f"{name} {count} must be a positive multiple of 8")


def run() -> int:
    """Makes what is missing, scores, says what came of it; 1 where the method learned nothing."""
    config = parse(DemoConfig, "jobs/demo.py")
    out = from_root(config.out)
    work = out / f"seed-{config.seed}"
    clock, was_done = Clock(work / CLOCK_FILE), (work / "result.json").exists()
    say(f"making {config.num_train + 2 * config.num_test:,} pictures of 8 kinds in {work}")
    make_demo_pictures(
        work,
        num_train=config.num_train,
        num_usual=config.num_test,
        num_changed=config.num_test,
        seed=config.seed,
        num_processes=NUM_PROCESSES,
    )
    pictures = work / "pictures"
    if config.only_pictures:
        conclude({"pictures": pictures}, f"results    {pictures} (next: jobs/precompute.py)")
        return 0
    try:
        precompute(PrecomputeConfig(data=pictures / "train", out=work / "shards"), NUM_PROCESSES)
        # Torch takes seconds to import, and the processes that draw import this file.
        demo = importlib.import_module("training.demo.run")
        plan = demo.DemoPlan(work=work, out=out, seed=config.seed, epochs=config.epochs)
        if not demo.train_and_evaluate(plan):
            conclude({"out": out, "finished": False}, "stopped: the same command goes on")
            return Stopped.exit_code
    finally:
        if not was_done:
            clock.stop()
    outcome = demo.read_outcome(out / "evaluations")
    result = outcome.result(clock.seconds)
    for folder in (out, work):
        demo.write_result(folder, result)
    page = importlib.import_module("training.report.demo_page").write_demo_page(plan, outcome)
    learned = outcome.has_learned
    conclude(
        {"out": out, "finished": True, **result},
        *demo.table(outcome),
        *([] if learned else ["The method's network is not better than the untrained one."]),
        f"\npictures   {pictures} (true masks in {work / 'masks'})",
        f"masks      {out / 'contact_sheet.png'}",
        f"backbone   {work / 'method' / 'backbone'}",
        f"compare    python jobs/compare.py {out}/evaluations/baseline {out}/evaluations/method",
        f"done in {duration(clock.seconds)}; results in {page} and {out / 'result.json'}",
    )
    return 0 if learned else 1


if __name__ == "__main__":
    main(run)
