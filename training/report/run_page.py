"""The report of a pretraining run."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.core.progress import duration
from training.config.pretrain import PretrainConfig
from training.core.checkpoint import CheckpointStore
from training.core.fields import dotted
from training.data.damage import DAMAGED_FILE
from training.record.run_record import SEEN
from training.report.config import ReportConfig
from training.report.run.curves import LEARNING, MASKING, SPEED, charts, other_curves
from training.report.run.feature_map import feature_map
from training.report.run.masks import drawn_masks
from training.report.run.state import RunState, read_run
from training.report.wording import count, figure, folder_title

IMAGES_A_CARD = 6
"""A sample of a run takes the room of so many images of a shard set."""
MOST_DAMAGED = 100
PLACES = ("shards", "out", "data_digest", "knn.val_shards", "knn.train_shards")
"""Settings that differ in every run."""


def run_page(config: ReportConfig) -> dict[str, Any]:
    """Read a run's record, draw its masks again and map its features, for `run.html`.

    Raises:
        InputError: its settings are damaged. The page says what else is missing.
    """
    run = read_run(config.folder)
    damaged = run.folder / DAMAGED_FILE
    lines = damaged.read_text(errors="replace").splitlines() if damaged.is_file() else []
    return {
        "title": folder_title(run.folder),
        "kicker": "pretraining run",
        "folder": run.folder,
        "summary": _summary(run),
        "facts": _facts(run),
        "run": run,
        "learning": charts(run, LEARNING),
        "masking": charts(run, MASKING),
        "speed": charts(run, SPEED),
        "others": charts(run, other_curves(run)),
        "masks": drawn_masks(run, max(1, config.images // IMAGES_A_CARD)),
        "map": feature_map(run, config),
        "changed": _changed(run),
        "settings": [(name, _text(value)) for name, value in dotted(run.recorded).items()],
        "provenance": _provenance(run),
        "damaged": [(line,) for line in lines if line.strip()],
        "most_damaged": MOST_DAMAGED,
    }


def _summary(run: RunState) -> str:
    architecture = dict(run.recorded["encoder"]).get("architecture", "an unknown network")
    method = dotted(run.recorded).get("method.name", "an unknown method")
    what = f"{architecture} by {method}"
    if not run.entries:
        return f"{what}: nothing was recorded yet."
    if run.finished:
        stands = f"{what}, finished: {count(run.epochs, 'epoch')} in {count(run.step, 'step')}."
    elif run.steps_per_epoch is None:
        stands = f"{what}: {count(run.step, 'step')} recorded; the total is not known."
    else:
        stands = (
            f"{what}, unfinished: the record ends at epoch {run.step / run.steps_per_epoch:.2f} of "
            f"{run.epochs} (step {run.step:,} of {run.total_steps:,}); it may still be running."
        )
    epochs, knn = run.column("knn")
    if len(knn) > 1 and epochs[0] == 0:
        stands += f" kNN went from {knn[0]:.2f} % untrained to {knn[-1]:.2f} %."
    return stands


def _facts(run: RunState) -> list[tuple[str, str]]:
    total = "" if run.total_steps is None else f" of {run.total_steps:,}"
    facts = [("steps", f"{run.step:,}{total}")]
    if run.info is not None:
        facts.append(("images", count(run.info.num_images)))
    facts.append(("global batch", count(int(run.recorded["batch_size"]))))
    for name, label, unit in (("loss", "last loss", ""), ("knn", "last kNN", " %")):
        value = run.last(name)
        facts.append((label, "not measured" if value is None else figure(value) + unit))
    rate = run.last("images_per_second")
    if rate is not None:
        facts += [("last rate", f"{rate:.0f} images/s"), ("time in steps", _time(run))]
    return facts


def _time(run: RunState) -> str:
    """Time of the recorded steps, without evaluations, checkpoints and starts."""
    timed = [
        (float(entry["step"]), float(entry["images_per_second"]))
        for entry in run.entries
        if "images_per_second" in entry
    ]
    batch = int(run.recorded["batch_size"])
    pairs = pairwise([(0.0, 1.0), *timed])
    return duration(sum((now[0] - before[0]) * batch / now[1] for before, now in pairs))


def _changed(run: RunState) -> list[tuple[str, str, str]]:
    """Settings that differ from the defaults: name, value, default."""
    plain = PretrainConfig(shards=Path("shards"), out=Path("out"))
    if run.config is not None:
        plain = replace(plain, method=type(run.config.method)())
    defaults = dotted(plain.to_json())
    return [
        (name, _text(value), _text(defaults.get(name)))
        for name, value in dotted(run.recorded).items()
        if name not in PLACES and (name not in defaults or defaults[name] != value)
    ]


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(figure(item) for item in value) if len(value) == 2 else json.dumps(value)
    return "none" if value is None else figure(value)


def _provenance(run: RunState) -> list[tuple[str, str]]:
    """Digests and folders, from the data to the weights."""
    rows = [
        ("run", str(run.folder)),
        ("shards", str(run.recorded["shards"])),
        ("digest of the shards' plan", str(run.recorded.get("data_digest", "not recorded"))),
        ("seed", str(run.recorded.get("seed", "not recorded"))),
    ]
    seen = [entry[SEEN] for entry in run.entries if SEEN in entry]
    if seen:
        rows.append(("digest of the samples trained on", str(seen[-1])))
    if run.backbone is not None:
        done = run.backbone.provenance
        rows += [
            ("backbone", f"{run.backbone.architecture}, {run.backbone.feature_dim} features"),
            ("backbone of", f"step {done.get('step')}, epoch {figure(done.get('epochs'))}"),
            ("sha256 of the weights", run.backbone.weights_sha256),
        ]
    steps = CheckpointStore(run.folder / "checkpoints", keep=1).steps()
    rows.append(("checkpoints at steps", ", ".join(map(str, steps)) or "none"))
    if run.info is not None:
        saliency = ", ".join(f"{name} {figure(value)}" for name, value in run.info.saliency.items())
        rows.append(("saliency", saliency))
        rows += [(f"shards made with {name}", text) for name, text in run.info.versions.items()]
    return rows
