"""Read a run from the files in its folder; a missing part is kept as the reason why."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backbone.folder import find_export, load_info
from pipeline.backbone.info import BackboneInfo
from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo, check_shards, load_dataset_info
from pipeline.storage.storage import Location
from training.config.derived import stream_config
from training.config.file import CONFIG_FILE, config_from_json
from training.config.pretrain import PretrainConfig
from training.data.stream import BatchDataset
from training.record.metrics import WARNING, read_metrics
from training.record.relay import PROGRESS_FILE
from training.report.kinds import read_object

Column = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run.

    Attributes:
        folder: its folder.
        recorded: its ``config.json``.
        entries: its ``metrics.jsonl``.
        config: ``config.json`` as a configuration; None if this version cannot read it.
        config_problem: why ``config`` is None.
        info: of its shards; None if they cannot be used.
        shards_problem: why ``info`` is None.
        backbone: its export; None if there is none yet.
        steps_per_epoch: None if unknown.
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
        """The last recorded global step."""
        return max((int(entry["step"]) for entry in self.entries), default=0)

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return int(self.recorded["epochs"])

    @property
    def total_steps(self) -> int | None:
        """Global steps of the whole run; None if unknown."""
        return None if self.steps_per_epoch is None else round(self.epochs * self.steps_per_epoch)

    @property
    def finished(self) -> bool:
        """Whether the record reaches the last step."""
        return self.total_steps is not None and 0 < self.total_steps <= self.step

    @property
    def x_label(self) -> str:
        """The x axis of all curves."""
        return "step" if self.steps_per_epoch is None else "epoch"

    @property
    def warnings(self) -> list[str]:
        """The run's warnings with their steps."""
        return [
            f"At step {entry['step']}: {entry['message']}"
            for entry in self.entries
            if entry["kind"] == WARNING
        ]

    def column(self, name: str) -> Column:
        """Epochs (or steps) and values of a recorded number; both empty if it has none."""
        found = [
            (float(entry["step"]), float(entry[name]))
            for entry in self.entries
            if entry["kind"] != WARNING and isinstance(entry.get(name), int | float)
        ]
        steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
        return steps / (self.steps_per_epoch or 1.0), values

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
    absent = {"epochs", "batch_size", "method", "encoder", "shards", "out"} - recorded.keys()
    if absent:
        raise InputError(f"{folder / CONFIG_FILE} is damaged: it has no {min(absent)!r}")
    config, config_problem = None, ""
    try:
        config = config_from_json(
            recorded, shards=str(recorded["shards"]), out=Path(str(recorded["out"]))
        )
    except InputError as error:
        config_problem = f"another version recorded the settings: {error}"
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
        data = BatchDataset(config.shards, info, stream_config(config), rank=0, world_size=1)
        return float(data.steps_per_epoch)
    provenance = {} if backbone is None else backbone.provenance
    if provenance.get("epochs") and provenance.get("step"):
        return float(provenance["step"]) / float(provenance["epochs"])
    log = folder / PROGRESS_FILE
    said = log.read_text(errors="replace") if log.is_file() else ""
    lines = re.findall(r"^ *training: \d+/(\d+) steps; epoch [\d.]+/(\d+),", said, re.MULTILINE)
    return int(lines[-1][0]) / int(lines[-1][1]) if lines else None
