"""The demo's two trainings and their evaluation: an untrained network, a baseline, the method."""

import itertools
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from pipeline.shardset.manifest import load_dataset_info
from pipeline.storage.atomic import write_atomically
from training.config.pretrain import PretrainConfig
from training.config.recipes import find_recipe
from training.config.settings import CheckpointConfig
from training.demo.side_by_side import side_by_side
from training.engine.local import launch
from training.evaluate.arms import read_arms
from training.evaluate.compare import Comparison, compare
from training.evaluate.config import EvaluateConfig
from training.evaluate.encoders import UNTRAINED
from training.evaluate.predictions import read_predictions, write_predictions
from training.evaluate.results import append_results, read_results
from training.evaluate.run import evaluate
from training.methods.settings import HardNegativeConfig

RECIPES = {"baseline": "demo_baseline", "method": "demo"}
"""Row -> recipe."""
ROWS = (UNTRAINED, *RECIPES)
COLUMNS = ("usual", "changed")
RESULT_FILE = "result.json"


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """What is trained, and where.

    Attributes:
        work: folder of pictures, shards and runs of this seed.
        out: folder of the results.
        seed: of pictures, weights and draws.
        epochs: of both trainings; None: the recipes'.
    """

    work: Path
    out: Path
    seed: int
    epochs: int | None = None

    @property
    def num_train(self) -> int:
        """Pictures to train with."""
        return load_dataset_info(self.work / "shards").num_images

    def backbone(self, row: str) -> Path:
        """What the run of a row exports."""
        return self.work / row / "backbone"

    def scored(self, row: str, column: str) -> Path:
        """Where the run of a row is scored."""
        return self.work / "scored" / row / column

    def config(self, row: str) -> PretrainConfig:
        """The run of a row."""
        config = find_recipe(RECIPES[row])(self.work / "shards", self.work / row)
        return replace(
            config,
            seed=self.seed,
            epochs=self.epochs or config.epochs,
            num_workers=1,
            knn=replace(config.knn, every_epochs=self.epochs or config.epochs),
            checkpoint=CheckpointConfig(every_epochs=0, every_minutes=1, keep=1),
        )


def train_and_evaluate(plan: DemoPlan) -> bool:
    """Train baseline and method at once, each in a process of its own, and score all rows.

    What an earlier call has trained is not trained again. The evaluations, 20-NN on both columns,
    go to `plan.out/evaluations/ROW`.

    Returns:
        Whether both are finished; else a stop was asked for, and there are checkpoints.
    """
    tasks = {row: partial(_train_and_score, plan, row) for row in RECIPES}
    if not all(side_by_side(tasks).values()):
        return False
    kept = plan.out / "evaluations"
    shutil.rmtree(kept, ignore_errors=True)
    rows = {str(plan.backbone(row)): row for row in RECIPES} | {UNTRAINED: UNTRAINED}
    for row, column in itertools.product(RECIPES, COLUMNS):
        folder = plan.scored(row, column)
        # A folder of the outcome holds both columns: their names tell them apart.
        for result in read_results(folder):
            to = kept / rows[result.checkpoint]
            append_results(to, [replace(result, variant=column)])
        for one in read_predictions(folder):
            digest = one.result.checkpoint_digest
            if one.result.encoder == UNTRAINED and digest != f"random:{plan.seed}":
                continue  # a comparison takes one network: the first of those that are averaged
            to = kept / rows[one.result.checkpoint]
            write_predictions(to, replace(one, result=replace(one.result, variant=column)))
    return True


def _train_and_score(plan: DemoPlan, row: str) -> bool:
    if not launch(plan.config(row)).finished:
        return False
    # The untrained network goes with the baseline, whose steps cost less.
    untrained = (UNTRAINED,) if row == "baseline" else ()
    for column in COLUMNS:
        folder = plan.scored(row, column)
        shutil.rmtree(folder, ignore_errors=True)
        config = EvaluateConfig(
            checkpoint=(*untrained, str(plan.backbone(row))),
            train=plan.work / "shards",
            val=plan.work / "pictures" / column,
            protocol=("knn",),
            results=folder,
            seed=plan.seed,
        )
        evaluate(config, torch.device("cpu"))
    return True


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the demo shows.

    Attributes:
        figures: top-1 in percent, by row and column.
        differences: method minus baseline by column.
        num_images: of a column.
    """

    figures: Mapping[str, Mapping[str, float]]
    differences: Mapping[str, Comparison]
    num_images: int

    @property
    def has_learned(self) -> bool:
        """Whether the method's network is better than the untrained one on both columns."""
        return all(self.figures["method"][c] > self.figures[UNTRAINED][c] for c in COLUMNS)

    def result(self, seconds: float) -> dict[str, object]:
        """What stands in result.json."""
        found = asdict(self.differences["changed"].difference)
        return {
            "seconds": round(seconds, 1),
            **{row: {c: round(self.figures[row][c], 2) for c in COLUMNS} for row in ROWS},
            "difference_changed": {key: round(found[key], 2) for key in ("points", "low", "high")},
        }

    def words(self) -> list[str]:
        """The paired differences as sentences."""
        return [_sentence(column, self.differences[column]) for column in COLUMNS]


def read_outcome(evaluations: Path) -> Outcome:
    """Figures and paired differences of the evaluations that `evaluate_all` has kept."""
    folders = [str(evaluations / row) for row in RECIPES]
    arms = read_arms(folders, (), Path())
    found = compare(arms, [f"knn {column}" for column in COLUMNS], seed=0)
    return Outcome(
        figures={
            row: {one.variant: one.figure for one in read_results(evaluations / row)}
            for row in ROWS
        },
        differences=dict(zip(COLUMNS, found, strict=True)),
        num_images=found[0].num_images,
    )


def _sentence(column: str, found: Comparison) -> str:
    difference = found.difference
    side = "above" if difference.points >= 0 else "below"
    clear = "" if difference.low > 0 or difference.high < 0 else ", which includes no difference"
    return (
        f"On {column} backgrounds the method is {abs(difference.points):.1f} points {side} the "
        f"baseline (95 % interval {difference.low:+.1f} to {difference.high:+.1f}, paired over "
        f"{found.num_images:,} pictures{clear})."
    )


def label(row: str, plan: DemoPlan) -> str:
    """What a row is called: what is on in its recipe."""
    if row == UNTRAINED:
        return "untrained"
    config = plan.config(row)
    parts = [config.method.name]
    if config.masks.strategy != "none":
        parts.append(f"{config.masks.strategy} masks on the query")
    if isinstance(config.method, HardNegativeConfig):
        if config.method.has_object_head:
            parts.append(f"object head: {config.method.object_head}")
        elif config.method.hard_negatives:
            parts.append(f"hard negatives, rho {config.method.rho:g}")
    return f"{row} ({', '.join(parts if len(parts) > 1 else [*parts, 'no masks'])})"


def table(plan: DemoPlan, outcome: Outcome) -> list[str]:
    """Lines of the table for a terminal, and the differences in words."""
    labels = {row: label(row, plan) for row in ROWS}
    width = max(map(len, labels.values())) + 2
    head = f"20-NN top-1 in %, {outcome.num_images:,} pictures a column"
    return [
        f"\n{head:{max(width, len(head) + 2)}}" + "".join(f"{column:>9}" for column in COLUMNS),
        *(
            f"{labels[row]:{max(width, len(head) + 2)}}"
            + "".join(f"{outcome.figures[row][column]:9.1f}" for column in COLUMNS)
            for row in ROWS
        ),
        "",
        *outcome.words(),
    ]


def write_result(out: Path, result: Mapping[str, object]) -> None:
    """Write result.json whole."""
    write_atomically(out / RESULT_FILE, json.dumps(result, indent=1).encode() + b"\n")
