"""The whole way on pictures that it makes itself: shards, masks, pretraining, evaluation."""

import importlib
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from jobs.cli import conclude, from_root, main, parse
from jobs.options import Groups
from pipeline.demo.pictures import make_demo_pictures
from pipeline.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.progress import duration, say
from training.config import KnnConfig
from training.evaluate.config import EvaluateConfig
from training.evaluate.run import evaluate
from training.evaluate.subject import UNTRAINED
from training.loop import RunResult
from training.recipes import demo


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo makes.

    Attributes:
        out: folder for pictures, shards and the run.
        epochs: passes over the 3,200 training pictures, 1 or more.
        num_workers: training processes, 1 or more.
        only_pictures: stop after making the pictures.
    """

    groups: ClassVar[Groups] = {
        "demo": ("What is made, and where.", ("out", "only_pictures", "epochs", "num_workers"))
    }

    out: Path = Path("runs/demo")
    epochs: int = 15
    num_workers: int = 2
    only_pictures: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.num_workers < 1:
            raise InputError(
                f"epochs {self.epochs} and num_workers {self.num_workers} must be 1 or more"
            )


def run() -> None:
    """Makes pictures, precomputes, pretrains, evaluates before and after, and says so."""
    config = parse(DemoConfig, "jobs/demo.py")
    out, started = from_root(config.out), time.monotonic()
    rest = "" if config.only_pictures else ", then shards, a run and its evaluation"
    say(f"making 7,200 pictures of 8 kinds of objects, with their true masks, in {out}{rest}")
    make_demo_pictures(out)
    if config.only_pictures:
        pictures = out / "pictures"
        conclude({"pictures": pictures}, f"results    {pictures} (next: jobs/precompute.py)")
        return
    shards = {name: out / "shards" / name for name in ("train", "usual")}
    # Ray takes seconds to import: only where it is used.
    ray_running = importlib.import_module("pipeline.ray_session").ray_running
    precompute = importlib.import_module("pipeline.precompute.ray_job").precompute
    launch = importlib.import_module("training.cluster.launch").launch
    with ray_running():
        for name, folder in shards.items():
            precompute(PrecomputeConfig(data=out / "pictures" / name, out=folder))
        recipe = demo(shards["train"], out / "run")
        result: RunResult = launch(
            replace(
                recipe,
                epochs=config.epochs,
                num_workers=config.num_workers,
                knn=KnnConfig(val_shards=shards["usual"], every_epochs=config.epochs),
            )
        )
    if not result.finished:
        conclude(
            {"out": out, "finished": False, "step": result.step},
            f"stopped at step {result.step} of {result.total_steps}: make demo goes on from there",
        )
        return
    backbone = str(out / "run" / "backbone")
    scoring = EvaluateConfig(
        checkpoint=(UNTRAINED, backbone),
        train=shards["train"],
        val=shards["usual"],
        results=out / "results.jsonl",
    )
    results = evaluate(scoring, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    figures = {(result.protocol, result.checkpoint): result.figure for result in results}
    shutil.copy(out / "run" / "contact_sheet.png", out / "contact_sheet.png")
    rows = (("knn", "20 nearest neighbours"), ("linear", "linear probe"))
    pairs = {name: (figures[name, UNTRAINED], figures[name, backbone]) for name, _ in rows}
    conclude(
        {
            "out": out,
            "finished": True,
            "top1_untrained": {name: before for name, (before, _) in pairs.items()},
            "top1_pretrained": {name: after for name, (_, after) in pairs.items()},
        },
        f"\n{'top-1 on 2,000 held-out pictures, %':36}{'untrained':>10}{'pretrained':>12}",
        *(f"{title:36}{pairs[name][0]:10.1f}{pairs[name][1]:12.1f}" for name, title in rows),
        f"\npictures   {out / 'pictures'} (true masks in {out / 'masks'})",
        f"shards     {out / 'shards'}",
        f"masks      {out / 'contact_sheet.png'}",
        f"backbone   {out / 'run' / 'backbone'} (backbone.pth loads into torchvision's resnet18)",
        f"metrics    tensorboard --logdir {out / 'run'}",
        f"done in {duration(time.monotonic() - started)}; results in {out} (next: your own images, "
        "make precompute DATA=FOLDER)",
    )


if __name__ == "__main__":
    main(run)
