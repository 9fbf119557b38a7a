"""What a folder holds: its kind, and the state of a run or of a sweep."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.backbone.folder import find_export, load_info
from pipeline.backbone.info import BackboneInfo
from pipeline.core.errors import InputError, JobError, check
from pipeline.shardset.manifest import DatasetInfo, check_shards, load_dataset_info
from pipeline.shardset.schema import DATASET_FILE, PLAN_FILE, SHARDS_FOLDER
from training.config.file import CONFIG_FILE, config_from_json
from training.config.pretrain import PretrainConfig
from training.core.checkpoint import STATE_FILE
from training.engine.preflight import steps_per_epoch
from training.record.metrics import WARNING, read_metrics
from training.sweep.config import OBJECTIVES, SWEEP_FILE
from training.sweep.results import Trial, best_trials, finished, read_table

Kind = Literal["shard set", "run", "sweep"]
Values = NDArray[np.float64]
NEEDED = {"epochs", "batch_size", "method", "encoder", "shards", "out"}
"""Entries without which `config.json` is none of a run."""
TITLES = {"knn": ("kNN", "%"), "heldout_loss": ("held-out loss", "nats")}
"""Names and units of the objectives of a sweep."""


def kind_of(folder: Path) -> Kind:
    """Tell what a folder holds; a shard set may still be unfinished.

    Raises:
        InputError: there is no such folder, or it holds nothing to report.
    """
    what = "is a file" if folder.exists() else "does not exist"
    wanted = "wanted the folder of a shard set, a run or a sweep"
    check(folder.is_dir(), f"{folder} {what}: {wanted}")
    if (folder / SWEEP_FILE).is_file():
        return "sweep"
    is_checkpoint = (folder / STATE_FILE).is_file()
    check(not is_checkpoint, f"{folder} is a checkpoint: name the run that it belongs to")
    if (folder / CONFIG_FILE).is_file():
        if "data_digest" in read_object(folder / CONFIG_FILE):
            return "run"
    elif any((folder / name).exists() for name in (DATASET_FILE, PLAN_FILE, SHARDS_FOLDER)):
        return "shard set"
    raise InputError(
        f"{folder} holds neither a shard set ({DATASET_FILE}), nor a run ({CONFIG_FILE} of "
        f"jobs/pretrain.py), nor a sweep ({SWEEP_FILE})"
    )


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        InputError: the file cannot be read, or it holds something else.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    check(isinstance(found, dict), f"{path} is damaged: wanted a JSON object")
    return dict(found)


def or_problem(part: Callable[..., Any], *arguments: object, **named: object) -> tuple[Any, str]:
    """A part of a page; or None, and why there is none."""
    try:
        return part(*arguments, **named), ""
    except JobError as error:
        return None, str(error)


@dataclass(frozen=True)
class RunState:
    """A run; None stands for what is not there or cannot be read."""

    folder: Path
    recorded: dict[str, Any]  # config.json
    entries: list[dict[str, float | str]]  # metrics.jsonl
    config: PretrainConfig | None  # what is recorded
    info: DatasetInfo | None  # of its shards
    backbone: BackboneInfo | None
    steps_per_epoch: float | None
    problems: list[str]  # why there is no config or no info

    @property
    def step(self) -> int:
        """The last recorded global step."""
        return max((int(entry["step"]) for entry in self.entries), default=0)

    @property
    def total_steps(self) -> int | None:
        """Global steps of the whole run; None if unknown."""
        per_epoch = self.steps_per_epoch
        return None if per_epoch is None else round(int(self.recorded["epochs"]) * per_epoch)

    def column(self, name: str) -> tuple[Values, Values]:
        """Epochs (steps, if their number per epoch is unknown) and values of a number, [n] each."""
        found = [
            (float(entry["step"]), float(entry[name]))
            for entry in self.entries
            if entry["kind"] != WARNING and isinstance(entry.get(name), int | float)
        ]
        steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
        return steps / (self.steps_per_epoch or 1.0), values

    @property
    def seconds_in_steps(self) -> float:
        """Time of the recorded steps, without evaluations, checkpoints and starts."""
        epochs, rates = self.column("images_per_second")
        steps = np.diff(epochs, prepend=0.0) * (self.steps_per_epoch or 1.0)
        return float((steps * int(self.recorded["batch_size"]) / rates).sum())

    def last(self, name: str) -> float | None:
        """The last value of a recorded number."""
        values = self.column(name)[1]
        return float(values[-1]) if len(values) else None


def read_run(folder: Path) -> RunState:
    """Read a run, finished or not.

    Raises:
        InputError: its record of settings or numbers is damaged.
    """
    recorded = read_object(folder / CONFIG_FILE)
    if absent := NEEDED - recorded.keys():
        raise InputError(f"{folder / CONFIG_FILE} is damaged: it has no {min(absent)!r}")
    shards, out = str(recorded["shards"]), Path(str(recorded["out"]))
    config, older = or_problem(config_from_json, recorded, shards=shards, out=out)
    info, gone = or_problem(_shards, shards, str(recorded.get("data_digest")))
    backbone, _ = or_problem(lambda: load_info(find_export(folder)))  # there may be none yet
    steps = None
    if config is not None and info is not None:
        steps = float(steps_per_epoch(config, info))
    elif backbone is not None and backbone.provenance.get("epochs"):
        steps = float(backbone.provenance["step"]) / float(backbone.provenance["epochs"])
    older = older and f"another version recorded the settings: {older}"
    problems = [problem for problem in (older, gone) if problem]
    entries = read_metrics(folder)
    return RunState(folder, recorded, entries, config, info, backbone, steps, problems)


def _shards(shards: str, data_digest: str) -> DatasetInfo:
    info = load_dataset_info(shards)
    check(
        info.plan_digest == data_digest,
        f"{shards} holds other shards than the run was trained on (plan digest "
        f"{info.plan_digest[:12]}, the run's is {data_digest[:12]})",
    )
    check_shards(shards, info)
    return info


class SweepState(NamedTuple):
    """A sweep; trials are in the order of their numbers."""

    plan: dict[str, Any]  # sweep.json
    trials: list[Trial]
    objective: str  # recorded name
    title: str  # of the objective, for people
    unit: str
    highest: bool  # whether a higher objective is better
    rated: list[Trial]  # the n trials that have an objective
    values: Values  # their objectives, float64 [n]
    best: list[Trial]  # of the finished ones if there are any; several are a tie


def read_sweep(folder: Path) -> SweepState:
    """Read a sweep, finished or not.

    Raises:
        InputError: its plan or its table is damaged.
    """
    path = folder / SWEEP_FILE
    plan = read_object(path)
    try:
        objective = str(plan["objective"]["name"])
        if not isinstance(plan["space"], dict) or objective not in OBJECTIVES:
            raise ValueError(f"objective {objective}")
        int(plan["num_trials"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: wanted an objective and a space ({error})") from error
    trials = read_table(folder)
    rated = [trial for trial in trials if objective in trial.values]
    values = np.array([trial.values[objective] for trial in rated], dtype=np.float64)
    best, highest = best_trials(finished(rated) or rated, objective), OBJECTIVES[objective] == "max"
    return SweepState(plan, trials, objective, *TITLES[objective], highest, rated, values, best)
