"""The report of a pretraining run."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.config.fields import dotted
from training.config.pretrain import PretrainConfig
from training.core.checkpoint import CheckpointStore
from training.data.damage import DAMAGED_FILE
from training.methods.moco.settings import MoCoConfig
from training.methods.simclr.settings import SimCLRConfig
from training.record.metrics import TIMINGS
from training.report.config import ReportConfig
from training.report.feature_map import feature_map
from training.report.figures import Chart, line_chart
from training.report.run_masks import drawn_masks
from training.report.state import RunState, or_problem, read_run
from training.report.wording import setting

IMAGES_A_CARD = 6
"""A sample of a run takes the room of so many images of a shard set."""
MOST_DAMAGED = 50
"""Damaged samples that are listed."""
PLACES = ("shards", "out", "data_digest", "knn.val_shards", "knn.train_shards")
"""Settings that differ in every run."""

Curves = Mapping[str, Mapping[str, str]]
"""A chart's title with its unit -> recorded name -> name in the legend."""
CURVES: dict[str, Curves] = {
    "learning": {
        "Loss, nats (means over the steps between two records)": {"loss": "loss"},
        "kNN accuracy (weighted, top-1), %": {"knn": "kNN"},
        "Held-out contrastive loss, nats": {
            "heldout_loss": "held-out loss",
            "seen_loss": "on seen images",
        },
        "Queries whose own key is the most similar, share": {"instance_accuracy": "share"},
        "Spread of the embeddings (0: collapsed to one point)": {"embedding_spread": "spread"},
        "Learning rate": {"lr": "learning rate"},
    },
    "speed": {
        "Throughput, images/s": {"images_per_second": "throughput"},
        "Time spent waiting for data, share of a step": {"data_wait_share": "waiting"},
    },
    "masking": {
        "Cosine similarity of a query to": {
            "positive_similarity": "its key",
            "negative_similarity": "other images",
            "hard_negative_similarity": "its hard negative",
        },
        **{
            f"Masked share of the {view}": {
                f"{prefix}_masked_foreground": "of the foreground",
                f"{prefix}_masked_background": "of the background",
            }
            for prefix, view in (("query", "query"), ("key", "key"), ("negative", "hard negative"))
        },
        "Foreground of the query, share of the patches": {"foreground_share": "foreground"},
        "Weight of the hard negative (rho)": {"rho": "rho"},
    },
}
"""By section of the page."""
NOT_OTHERS = {"step", "damaged_samples", *TIMINGS}.union(
    *(names for curves in CURVES.values() for names in curves.values())
)
"""Recorded numbers that have a chart of their own, or are not drawn."""


def run_page(config: ReportConfig) -> dict[str, Any]:
    """Read a run's record, draw its masks again and map its features, for `run.html`.

    Raises `InputError` if its settings are damaged. The page says what else is missing.
    """
    run = read_run(config.folder)
    others = {name for entry in run.entries for name in entry} - NOT_OTHERS
    damaged = run.folder / DAMAGED_FILE
    lines = damaged.read_text(errors="replace").splitlines() if damaged.is_file() else []
    return {
        "run": run,
        **{section: charts(run, curves) for section, curves in CURVES.items()},
        "others": charts(run, {name: {name: name} for name in sorted(others)}),
        "masks": or_problem(drawn_masks, run, max(1, config.images // IMAGES_A_CARD)),
        "map": or_problem(feature_map, run, config),
        "changed": _changed(run),
        "settings": [(name, setting(value)) for name, value in dotted(run.recorded).items()],
        "checkpoints": CheckpointStore(run.folder / "checkpoints", keep=1).steps(),
        "damaged": [_damaged(line) for line in lines[:MOST_DAMAGED]],
        "num_damaged": len(lines),
    }


def charts(run: RunState, curves: Curves) -> list[Chart]:
    """Draw the curves that were recorded."""
    drawn = []
    x_label = "step" if run.steps_per_epoch is None else "epoch"
    for title, names in curves.items():
        columns = {label: run.column(name) for name, label in names.items()}
        if recorded := {label: column for label, column in columns.items() if len(column[0])}:
            level = _level(run, next(iter(names)))
            drawn.append(line_chart(title, recorded, x_label=x_label, level=level))
    return drawn


def _level(run: RunState, name: str) -> tuple[str, float] | None:
    """What a curve is compared with: an untrained network's kNN, the loss of equal embeddings."""
    method = None if run.config is None else run.config.method
    if name == "knn":
        epochs, values = run.column(name)
        return ("untrained", float(values[0])) if epochs[0] == 0 else None
    if name == "loss" and isinstance(method, MoCoConfig):
        return "log(queue + 1)", math.log(method.queue_size + 1)
    if name == "loss" and isinstance(method, SimCLRConfig):
        return "log(2 batch - 1)", math.log(2 * int(run.recorded["batch_size"]) - 1)
    return None


def _damaged(line: str) -> tuple[str, str]:
    """Step and reason of a damaged sample; a line that a crash cut off is shown as it is."""
    try:
        entry = json.loads(line)
        return str(entry["step"]), str(entry["reason"])
    except (ValueError, KeyError, TypeError):
        return "", line


def _changed(run: RunState) -> list[tuple[str, str, str]]:
    """Settings that differ from the defaults: name, value, default."""
    plain = PretrainConfig(shards=Path("shards"), out=Path("out"))
    if run.config is not None:
        plain = replace(plain, method=type(run.config.method)())
    defaults = dotted(plain.to_json())
    return [
        (name, setting(value), setting(defaults.get(name)))
        for name, value in dotted(run.recorded).items()
        if name not in PLACES and (name not in defaults or defaults[name] != value)
    ]
