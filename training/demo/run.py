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
from training.evaluate.compare import Comparison, compare, read_arms
from training.evaluate.config import EvaluateConfig
from training.evaluate.encoders import UNTRAINED
from training.evaluate.results import (
    append_results,
    read_predictions,
    read_results,
    write_predictions,
)
from training.evaluate.run import evaluate

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
        """The folder in which the run of a row is scored."""
        return self.work / "scored" / row / column

    def config(self, row: str) -> PretrainConfig:
        """The run of a row."""
        config = find_recipe(RECIPES[row])(self.work / "shards", self.work / row)
        epochs = self.epochs or config.epochs
        return replace(
            config,
            seed=self.seed,
            epochs=epochs,
            num_workers=1,
            knn=replace(config.knn, every_epochs=epochs),
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
            append_results(kept / rows[result.checkpoint], [replace(result, variant=column)])
        for one in read_predictions(folder):
            result = replace(one.result, variant=column)
            # A comparison takes one untrained network: the first of those that are averaged.
            if result.encoder != UNTRAINED or result.checkpoint_digest == f"random:{plan.seed}":
                write_predictions(kept / rows[result.checkpoint], replace(one, result=result))
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
        """The content of result.json."""
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
    """Figures and paired differences of the evaluations that `train_and_evaluate` has kept."""
    arms = read_arms([str(evaluations / row) for row in RECIPES], (), Path())
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


def label(row: str) -> str:
    """The name of a row, with its recipe."""
    return f"{row} (recipe {RECIPES[row]})" if row in RECIPES else row


def table(outcome: Outcome) -> list[str]:
    """Lines of the table for a terminal, and the differences in words."""
    head = f"20-NN top-1 in %, {outcome.num_images:,} pictures a column"
    cells: list[tuple[str, ...]] = [(head, *COLUMNS)]
    cells += [(label(r), *(f"{outcome.figures[r][c]:.1f}" for c in COLUMNS)) for r in ROWS]
    width = max(len(first) for first, *_ in cells) + 2
    lines = [f"{first:{width}}" + "".join(f"{c:>9}" for c in rest) for first, *rest in cells]
    return ["", *lines, "", *outcome.words()]


def write_result(out: Path, result: Mapping[str, object]) -> None:
    """Write result.json whole."""
    write_atomically(out / RESULT_FILE, json.dumps(result, indent=1).encode() + b"\n")
