"""The whole way on pictures that it makes itself: shards, masks, pretraining, evaluation."""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from jobs.cli import from_root, main, parse
from pipeline.demo.pictures import make_demo_pictures
from pipeline.precompute.ray_job import PrecomputeConfig, precompute
from pipeline.ray_session import ray_running
from training.cluster.launch import launch
from training.config import KnnConfig
from training.evaluate.config import EvaluateConfig
from training.evaluate.run import evaluate
from training.evaluate.subject import UNTRAINED
from training.recipes import demo


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo makes.

    Attributes:
        out: folder for pictures, shards and the run.
        epochs: passes over the 1,600 training pictures.
        num_workers: training processes.
        only_pictures: stop after making the pictures.
    """

    out: Path = Path("runs/demo")
    epochs: int = 15
    num_workers: int = 2
    only_pictures: bool = False


def run() -> None:
    """Makes pictures, precomputes, pretrains, evaluates before and after, and says so."""
    config = parse(DemoConfig, "jobs/demo.py")
    out, started = from_root(config.out), time.monotonic()
    print("making 2,000 pictures of 8 kinds of objects, with their true masks", flush=True)
    make_demo_pictures(out)
    if config.only_pictures:
        print(f"pictures  {out / 'pictures'}")
        return
    shards = {name: out / "shards" / name for name in ("train", "val")}
    with ray_running():
        for name, folder in shards.items():
            precompute(PrecomputeConfig(data=out / "pictures" / name, out=folder))
        recipe = demo(shards["train"], out / "run")
        result = launch(
            replace(
                recipe,
                epochs=config.epochs,
                num_workers=config.num_workers,
                knn=KnnConfig(val_shards=shards["val"], every_epochs=config.epochs),
            )
        )
    if not result.finished:
        print(
            f"stopped at step {result.step} of {result.total_steps}: make demo goes on from there"
        )
        return
    backbone = str(out / "run" / "backbone")
    scoring = EvaluateConfig(
        checkpoint=(UNTRAINED, backbone),
        train=shards["train"],
        val=shards["val"],
        results=out / "results.jsonl",
    )
    results = evaluate(scoring, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    figures = {(result.protocol, result.checkpoint): result.figure for result in results}
    shutil.copy(out / "run" / "contact_sheet.png", out / "contact_sheet.png")
    print(f"\n{'top-1 on 400 held-out pictures, %':36}{'untrained':>10}{'pretrained':>12}")
    for name, title in (("knn", "20 nearest neighbours"), ("linear", "linear probe")):
        before, after = figures[name, UNTRAINED], figures[name, backbone]
        print(f"{title:36}{before:10.1f}{after:12.1f}")
    print(f"\npictures   {out / 'pictures'} (true masks in {out / 'masks'})")
    print(f"shards     {out / 'shards'}")
    print(f"masks      {out / 'contact_sheet.png'}")
    print(f"backbone   {out / 'run' / 'backbone'} (backbone.pth loads into torchvision's resnet18)")
    print(f"metrics    tensorboard --logdir {out / 'run'}")
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(run)
