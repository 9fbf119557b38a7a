"""The state of a run, from the files of its folder."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backbone.folder import find_export, load_info
from pipeline.backbone.info import BackboneInfo
from pipeline.core.errors import InputError, JobError, check
from pipeline.core.plain import parse
from pipeline.shardset.manifest import DatasetInfo, check_shards, load_dataset_info
from training.config.file import CHOSEN_DIGEST, CONFIG_FILE, config_from_json
from training.config.pretrain import PretrainConfig
from training.data.selection import read_selection
from training.engine.preflight import steps_per_epoch
from training.record.metrics import WARNING, read_metrics

Values = NDArray[np.float64]
NEEDED = {"epochs", "batch_size", "method", "encoder", "shards", "out"}
"""Entries without which `config.json` is none of a run."""


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises `InputError` if the file holds none or cannot be read."""
    try:
        found = parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    check(isinstance(found, dict), f"{path} is damaged: wanted a JSON object")
    return dict(found)


def or_problem(part: Callable[..., Any], *arguments: object, **named: object) -> tuple[Any, str]:
    """A part of a page; or None, and why there is none."""
    try:
        return part(*arguments, **named), ""
    except (JobError, OverflowError) as error:  # of settings that somebody wrote
        return None, str(error)


def or_problems(part: Callable[[int], Any], numbers: Iterable[int]) -> tuple[list[Any], list[str]]:
    """The parts of some numbers, and why others have none."""
    found = [or_problem(part, number) for number in numbers]
    return [one for one, _ in found if one is not None], [why for _, why in found if why]


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
    """Read a run, finished or not; raises `InputError` if its settings are damaged."""
    recorded = read_object(folder / CONFIG_FILE)
    if absent := NEEDED - recorded.keys():
        raise InputError(f"{folder / CONFIG_FILE} is damaged: it has no {min(absent)!r}")
    shards, out = str(recorded["shards"]), Path(str(recorded["out"]))
    config, older = or_problem(config_from_json, recorded, shards=shards, out=out)
    info, gone = or_problem(_shards, shards, str(recorded.get("data_digest")))
    backbone, _ = or_problem(lambda: load_info(find_export(folder)))  # there may be none yet
    steps = None
    if config is not None and info is not None:
        steps, gone = or_problem(_steps, config, info, recorded.get(CHOSEN_DIGEST))
    elif backbone is not None and backbone.provenance.get("epochs"):
        steps = float(backbone.provenance["step"]) / float(backbone.provenance["epochs"])
    older = older and f"another version recorded the settings: {older}"
    problems = [problem for problem in (older, gone) if problem]
    entries = read_metrics(folder)
    return RunState(folder, recorded, entries, config, info, backbone, steps, problems)


def _steps(config: PretrainConfig, info: DatasetInfo, chosen: str | None) -> float:
    found = config.selection and read_selection(config.selection).digest
    check(found == chosen, f"{config.selection} is another selection than the run was trained on")
    return float(steps_per_epoch(config, info))


def _shards(shards: str, data_digest: str) -> DatasetInfo:
    info = load_dataset_info(shards)
    check(
        info.plan_digest == data_digest,
        f"{shards} holds other shards than the run was trained on (plan digest "
        f"{info.plan_digest[:12]}, the run's is {data_digest[:12]})",
    )
    check_shards(shards, info)
    return info
