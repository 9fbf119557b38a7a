"""How a run stands, by what lies in its folder; what is missing is remembered with its reason."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backbone.folder import BackboneInfo, find_export, load_info
from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo, check_shards, load_dataset_info
from pipeline.storage.storage import Location
from training.config.file import config_from_json
from training.config.pretrain import CONFIG_FILE, PretrainConfig
from training.data.stream import BatchDataset
from training.record.metrics import WARNING, read_metrics
from training.record.relay import PROGRESS_FILE
from training.report.kinds import read_object

Column = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run.

    Attributes:
        folder: where it lies.
        recorded: its ``config.json``.
        entries: of its record.
        config: the same as a configuration; None where this version cannot read it.
        config_problem: why not.
        info: of its shards; None where they cannot be used.
        shards_problem: why not.
        backbone: of its export; None where there is none yet.
        steps_per_epoch: None where nothing tells.
    """

    folder: Path
    recorded: dict[str, Any]
    entries: list[dict[str, float | str]]
    config: PretrainConfig | None
    config_problem: str
    info: DatasetInfo | None
    shards_problem: str
    backbone: BackboneInfo | None
    steps_per_epoch: float | None

    @property
    def step(self) -> int:
        """Global steps that the record knows of."""
        return max((int(entry["step"]) for entry in self.entries), default=0)

    @property
    def epochs(self) -> int:
        """Of the whole run."""
        return int(self.recorded["epochs"])

    @property
    def total_steps(self) -> int | None:
        """Of the whole run, where known."""
        return None if self.steps_per_epoch is None else round(self.epochs * self.steps_per_epoch)

    @property
    def finished(self) -> bool:
        """Whether the record goes to the last step."""
        return self.total_steps is not None and 0 < self.total_steps <= self.step

    @property
    def x_label(self) -> str:
        """What curves are drawn over."""
        return "step" if self.steps_per_epoch is None else "epoch"

    @property
    def warnings(self) -> list[str]:
        """What the run warned of, each with its step."""
        return [
            f"At step {entry['step']}: {entry['message']}"
            for entry in self.entries
            if entry["kind"] == WARNING
        ]

    def column(self, name: str) -> Column | None:
        """Places and values of a number in the record; None where it has none."""
        found = [
            (float(entry["step"]), float(entry[name]))
            for entry in self.entries
            if entry["kind"] != WARNING and isinstance(entry.get(name), int | float)
        ]
        if not found:
            return None
        steps, values = np.array(found, dtype=np.float64).T
        return steps / (self.steps_per_epoch or 1.0), values

    def last(self, name: str) -> float | None:
        """The newest value of a number."""
        column = self.column(name)
        return None if column is None else float(column[1][-1])


def read_run(folder: Path) -> RunState:
    """Read what a run has left.

    Raises:
        InputError: its record of settings or numbers is damaged.
    """
    recorded = read_object(folder / CONFIG_FILE)
    absent = {"epochs", "batch_size", "method", "encoder", "shards", "out"} - recorded.keys()
    if absent:
        raise InputError(f"{folder / CONFIG_FILE} is damaged: it has no {min(absent)!r}")
    config, config_problem = None, ""
    try:
        config = config_from_json(
            recorded, shards=str(recorded["shards"]), out=Path(str(recorded["out"]))
        )
    except InputError as error:
        config_problem = f"the settings were recorded by another version: {error}"
    info, shards_problem = None, ""
    try:
        info = _shards(str(recorded["shards"]), str(recorded.get("data_digest")))
    except InputError as error:
        shards_problem = str(error)
    try:
        backbone = load_info(find_export(folder))
    except InputError:
        backbone = None
    return RunState(
        folder=folder,
        recorded=recorded,
        entries=read_metrics(folder),
        config=config,
        config_problem=config_problem,
        info=info,
        shards_problem=shards_problem,
        backbone=backbone,
        steps_per_epoch=_steps_per_epoch(folder, config, info, backbone),
    )


def _shards(shards: Location, data_digest: str) -> DatasetInfo:
    info = load_dataset_info(shards)
    if info.plan_digest != data_digest:
        raise InputError(
            f"{shards} holds other shards than the run was trained on (plan digest "
            f"{info.plan_digest[:12]}, the run's is {data_digest[:12]})"
        )
    check_shards(shards, info)
    return info


def _steps_per_epoch(
    folder: Path,
    config: PretrainConfig | None,
    info: DatasetInfo | None,
    backbone: BackboneInfo | None,
) -> float | None:
    if config is not None and info is not None:
        data = BatchDataset(config.shards, info, config.stream, rank=0, world_size=1)
        return float(data.steps_per_epoch)
    provenance = {} if backbone is None else backbone.provenance
    if provenance.get("epochs") and provenance.get("step"):
        return float(provenance["step"]) / float(provenance["epochs"])
    log = folder / PROGRESS_FILE
    said = log.read_text(errors="replace") if log.is_file() else ""
    lines = re.findall(r"^ *training: \d+/(\d+) steps; epoch [\d.]+/(\d+),", said, re.MULTILINE)
    return int(lines[-1][0]) / int(lines[-1][1]) if lines else None
