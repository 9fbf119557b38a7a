"""Tell what a folder holds, and read it; a part that is missing is reported with the reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import InputError, JobError
from pipeline.shardset.schema import DATASET_FILE, PLAN_FILE, SHARDS_FOLDER
from training.config.file import CONFIG_FILE
from training.core.checkpoint import STATE_FILE
from training.sweep.description import SWEEP_FILE

Kind = Literal["shard set", "run", "sweep"]


def kind_of(folder: Path) -> Kind:
    """Tell what a folder holds; a shard set may still be unfinished.

    Raises:
        InputError: there is no such folder, or it holds nothing to report.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}: wanted the folder of a shard set, a run or a sweep")
    if (folder / SWEEP_FILE).is_file():
        return "sweep"
    if (folder / STATE_FILE).is_file():
        raise InputError(f"{folder} is a checkpoint: name the run that it belongs to")
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
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged: wanted a JSON object")
    return found


def or_problem(part: Callable[..., Any], *arguments: object) -> tuple[Any, str]:
    """A part of a page; or None, and why there is none."""
    try:
        return part(*arguments), ""
    except JobError as error:
        return None, str(error)
