"""Read a run from the files in its folder; of a missing part, keep the reason why."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backbone.folder import find_export, load_info
from pipeline.backbone.info import BackboneInfo
from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo, check_shards, load_dataset_info
from training.config.file import CONFIG_FILE, config_from_json
from training.config.pretrain import PretrainConfig
from training.engine.preflight import steps_per_epoch
from training.record.metrics import WARNING, read_metrics
from training.report.kinds import read_object

NEEDED = {"epochs", "batch_size", "method", "encoder", "shards", "out"}
"""Entries without which `config.json` is none of a run."""


@dataclass(frozen=True)
class RunState:
    """A run; None stands for what is not there or cannot be read.

    Attributes:
        folder: its folder.
        recorded: its ``config.json``.
        entries: its ``metrics.jsonl``.
        config: ``config.json`` as a configuration.
        info: of its shards.
        backbone: its export.
        steps_per_epoch: global steps of an epoch.
        problems: why there is no `config` or no `info`.
    """

    folder: Path
    recorded: dict[str, Any]
    entries: list[dict[str, float | str]]
    config: PretrainConfig | None
    info: DatasetInfo | None
    backbone: BackboneInfo | None
    steps_per_epoch: float | None
    problems: list[str]

    @property
    def step(self) -> int:
        """The last recorded global step."""
        return max((int(entry["step"]) for entry in self.entries), default=0)

    @property
    def total_steps(self) -> int | None:
        """Global steps of the whole run; None if unknown."""
        if self.steps_per_epoch is None:
            return None
        return round(int(self.recorded["epochs"]) * self.steps_per_epoch)

    def column(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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
    config, info, backbone, steps = None, None, None, None
    shards, problems = str(recorded["shards"]), []
    try:
        config = config_from_json(recorded, shards=shards, out=Path(str(recorded["out"])))
    except InputError as error:
        problems.append(f"another version recorded the settings: {error}")
    try:
        info = _shards(shards, str(recorded.get("data_digest")))
    except InputError as error:
        problems.append(str(error))
    with suppress(InputError):  # there may be no export yet
        backbone = load_info(find_export(folder))
    if config is not None and info is not None:
        steps = float(steps_per_epoch(config, info))
    elif backbone is not None and backbone.provenance.get("epochs"):
        steps = float(backbone.provenance["step"]) / float(backbone.provenance["epochs"])
    entries = read_metrics(folder)
    return RunState(folder, recorded, entries, config, info, backbone, steps, problems)


def _shards(shards: str, data_digest: str) -> DatasetInfo:
    info = load_dataset_info(shards)
    if info.plan_digest != data_digest:
        raise InputError(
            f"{shards} holds other shards than the run was trained on (plan digest "
            f"{info.plan_digest[:12]}, the run's is {data_digest[:12]})"
        )
    check_shards(shards, info)
    return info
