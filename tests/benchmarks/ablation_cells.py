"""The cells of the ablation: what each one trains, which of them are the same, how one is run."""

import fcntl
import hashlib
import signal
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from pipeline.manifest import load_dataset_info
from pipeline.progress import listening
from tests.benchmarks.ablation_records import append_record, read_records
from training.config import PretrainConfig, differences
from training.config_fields import dotted
from training.context import LocalContext
from training.data.views import ViewConfig
from training.evaluate.config import EvaluateConfig
from training.evaluate.run import evaluate
from training.local import launch
from training.masking.config import Strategy
from training.recipes import find_recipe
from training.record.metrics import read_metrics
from training.record.relay import Relay

SCORE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the ablation.

    Attributes:
        method: ``moco_v2`` or ``simclr``.
        strategy: which patches of the query are masked.
        negatives: ``no`` own hard negatives, ``own`` as in the paper, or ``released``: cut and
            counted as the published code does.
        fill: what stands in masked patches.
        seed: of the run.
        lr: learning rate; None: the recipe's.
    """

    method: str
    strategy: Strategy
    negatives: Literal["no", "own", "released"]
    fill: str = "mean"
    seed: int = 0
    lr: float | None = None

    def canonical(self) -> "Cell":
        """The same for cells that are the same run: without a mask only high-pass makes a fill."""
        unmasked = self.strategy == "none" and self.negatives == "no"
        return replace(self, fill="mean") if unmasked and self.fill == "blur" else self

    def __str__(self) -> str:
        rate = "" if self.lr is None else f", lr {self.lr:g}"
        return f"{self.method} {self.strategy} {self.negatives} {self.fill}{rate}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells share.

    Attributes:
        train_shards: labelled shards to pretrain on and to score with.
        val_shards: labelled shards that are classified.
        out: folder of the ablation.
        recipe: ``small`` or ``debug``.
        epochs: of every run; None: the recipe's.
        view_size: side of a view; None: the recipe's.
        threads: of each run.
    """

    train_shards: Path
    val_shards: Path
    out: Path
    recipe: str = "small"
    epochs: int | None = None
    view_size: int | None = None
    threads: int = 1


def cell_config(cell: Cell, setting: Setting) -> PretrainConfig:
    """The run of a cell; its folder is named after what decides its result."""
    small = f"{cell.method}_small"
    recipe = find_recipe("debug" if setting.recipe == "debug" else small)
    base = recipe(setting.train_shards, setting.out)
    negatives = 0 if cell.negatives == "no" else 1
    released = cell.negatives == "released"
    config = replace(
        base,
        method=cell.method,
        fill=cell.fill,
        seed=cell.seed,
        epochs=setting.epochs or base.epochs,
        views=ViewConfig(size=setting.view_size, grid=8) if setting.view_size else base.views,
        masks=replace(
            base.masks, strategy=cell.strategy, behaviour="released" if released else "paper"
        ),
        moco=replace(base.moco, hard_negatives=negatives),
        simclr=replace(base.simclr, hard_negatives=negatives),
        optim=base.optim if cell.lr is None else replace(base.optim, lr=cell.lr),
        knn=replace(base.knn, val_shards=setting.val_shards, k=20),
        checkpoint=replace(base.checkpoint, keep=1),
    )
    return replace(config, out=setting.out / "runs" / digest_of(config))


def digest_of(config: PretrainConfig) -> str:
    """Sixteen digits of all that decides a run's weights, data and validation included."""
    train = load_dataset_info(config.shards).plan_digest
    assert config.knn.val_shards is not None
    data = {"train": train, "val": load_dataset_info(config.knn.val_shards).plan_digest}
    # Against nothing, so that all that counts is listed, and places and pace are not.
    deciding = differences({}, {**dotted(config.to_json()), **data})
    return hashlib.sha256("\n".join(deciding).encode()).hexdigest()[:16]


def run_cell(cell: Cell, setting: Setting) -> None:
    """Trains and scores a cell, or goes on with it, and records it when it is finished.

    Called in a process of its own. A second process that is given the same cell waits for the
    first and then finds it recorded.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent asks for a stop, by SIGTERM
    torch.set_num_threads(setting.threads)
    config = cell_config(cell, setting)
    locks = setting.out / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / config.out.name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if config.out.name in {record["digest"] for record in read_records(setting.out)}:
            return
        context = LocalContext()
        # several runs at once: what each tells goes to its own folder
        with listening(Relay(config.out)):
            finished = launch(config, context).finished
        if not finished:
            return  # asked to stop: there is a checkpoint
        append_record(setting.out, _record(cell, setting, config, context.device))


def _record(
    cell: Cell, setting: Setting, config: PretrainConfig, device: torch.device
) -> dict[str, object]:
    started = time.perf_counter()
    scoring = EvaluateConfig(
        checkpoint=(str(config.out / "backbone"),),
        train=setting.train_shards,
        val=setting.val_shards,
        results=setting.out / "results",
        k=20,
        seed=SCORE_SEED,
    )
    knn, linear = evaluate(scoring, device)
    entries = read_metrics(config.out)
    curve = [(int(e["step"]), float(e["knn"])) for e in entries if e["kind"] == "eval"]
    return {
        "digest": config.out.name,
        "cell": asdict(cell),
        "epochs": config.epochs,
        "view_size": config.views.size,
        "knn": knn.figure,
        "knn_interval": knn.interval,
        "linear": linear.figure,
        "linear_interval": linear.interval,
        "num_train": knn.num_train,
        "num_val": knn.num_val,
        "knn_curve": curve,
        "train_seconds": round(_training_seconds(entries, config.batch_size), 1),
        "score_seconds": round(time.perf_counter() - started, 1),
        "settings": linear.settings,
        "config": dotted(config.to_json()),
    }


def _training_seconds(entries: list[dict[str, float | str]], batch_size: int) -> float:
    """Time in the loop from the run's record, so that interruptions do not count."""
    seconds, before = 0.0, 0.0
    for entry in entries:
        if entry["kind"] == "train":
            steps, before = float(entry["step"]) - before, float(entry["step"])
            seconds += steps * batch_size / float(entry["images_per_second"])
    return seconds
