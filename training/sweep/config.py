"""A sweep as it was asked for, and its description on disk."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import InputError
from pipeline.stores.atomic import write_atomically
from training.config import PretrainConfig
from training.config_fields import with_fields
from training.sweep.ledger import TRIALS_FOLDER
from training.sweep.lock import LOCK_FILE
from training.sweep.search import Search, fixed_points, load_optuna, num_points
from training.sweep.space import Point, Space, check_values, shown, space_to_json

SWEEP_FILE = "sweep.json"
VERSION = 1
Scheduler = Literal["asha", "none"]
OBJECTIVES = {"knn": "max", "heldout_loss": "min"}
"""What a trial is judged by, and which way is better."""
NOT_COMPARED = (
    "shards",  # its digest is
    "out",
    "num_workers",
    "loader_workers",
    "log_every_steps",
    "max_failures",
    "checkpoint.",
    "knn.val_shards",
    "knn.train_shards",
    "heldout.shards",
)
"""Fields of the base configuration that may differ when a sweep goes on."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All that decides a sweep's trials and their order.

    Attributes:
        base: the pretraining of which fields vary; its ``out`` is the sweep's folder.
        space: what varies.
        search: how points are chosen.
        num_trials: in all.
        seed: of the points (the trials' own seed is the base's).
        objective: what a trial is judged by.
        scheduler: ``asha`` stops trials that fall behind (Li et al., "A System for Massively
            Parallel Hyperparameter Tuning", MLSys 2020).
        grace_epochs: epochs that every trial may train.
        reduction_factor: at each rung one trial of so many goes on.
        name: of the space, where it has one.
    """

    base: PretrainConfig
    space: Space
    search: Search
    num_trials: int
    seed: int = 0
    objective: str = "knn"
    scheduler: Scheduler = "asha"
    grace_epochs: int = 1
    reduction_factor: int = 2
    name: str = ""

    @property
    def folder(self) -> Path:
        """Where all of it lies."""
        return self.base.out

    @property
    def mode(self) -> str:
        """``max`` or ``min``."""
        return OBJECTIVES[self.objective]

    def points(self) -> list[Point]:
        """The points of all trials, where they are known beforehand."""
        return fixed_points(self.space, self.search, seed=self.seed, count=self.num_trials)

    def trial_config(self, number: int, point: Point) -> PretrainConfig:
        """The configuration of a trial."""
        out = self.folder / TRIALS_FOLDER / f"{number:04d}"
        return with_fields(self.base, {**point, "out": out})

    def description(self, data_digest: str) -> dict[str, Any]:
        """``sweep.json``."""
        plain = {
            "version": VERSION,
            "name": self.name,
            "objective": {"name": self.objective, "mode": self.mode},
            "space": space_to_json(self.space),
            "search": self.search,
            "seed": self.seed,
            "num_trials": self.num_trials,
            "scheduler": {"name": self.scheduler}
            | (
                {"grace_epochs": self.grace_epochs, "reduction_factor": self.reduction_factor}
                if self.scheduler == "asha"
                else {}
            ),
            "config": self.base.to_json(),
            "data_digest": data_digest,
        }
        return {**plain, "fingerprint": _fingerprint(plain)}


def make_sweep(
    *, base: PretrainConfig, space: Space, search: Search | None, num_trials: int | None, **rest: Any
) -> Sweep:
    """Checks what was asked for, and makes a sweep of it. Reads nothing, writes nothing.

    Args:
        base: the pretraining of which fields vary.
        space: what varies.
        search: None: the grid where all of the space is lists for a grid, else random.
        num_trials: None: all points of a grid, 8 others.
        rest: other fields of `Sweep`.

    Raises:
        InputError: an empty space, a value that its field refuses, an objective that no trial
            would report, settings of the scheduler that cannot be.
    """
    gridded = all(getattr(domain, "kind", "") == "grid" for domain in space.values())
    search = search or ("grid" if gridded else "random")
    if num_trials is not None and num_trials < 1:
        raise InputError(f"--num-trials {num_trials} must be 1 or more")
    count = num_points(space, search, num_trials)
    if search == "optuna":
        load_optuna()
    sweep = Sweep(base=base, space=space, search=search, num_trials=count, **rest)
    if "out" in space:
        raise InputError("out cannot be swept: every trial has a folder of its own")
    check_values(space, base)
    if sweep.grace_epochs < 1 or sweep.reduction_factor < 2:
        raise InputError(
            f"--grace-epochs {sweep.grace_epochs} must be 1 or more, --reduction-factor "
            f"{sweep.reduction_factor} 2 or more"
        )
    if sweep.objective not in OBJECTIVES:
        raise InputError(
            f"unknown objective {sweep.objective!r}: choose one of {', '.join(OBJECTIVES)}"
        )
    if sweep.scheduler == "asha" and sweep.grace_epochs > base.epochs:
        raise InputError(
            f"--grace-epochs {sweep.grace_epochs} is more than the {base.epochs} epochs of a trial"
        )
    configs = [sweep.trial_config(number, point) for number, point in enumerate(sweep.points())]
    for config in [base, *configs]:
        _check_objective(sweep, config)
    return sweep


def _check_objective(sweep: Sweep, config: PretrainConfig) -> None:
    if sweep.objective == "knn" and config.knn.val_shards is None:
        raise InputError(
            "no trial would report the kNN accuracy that it is judged by: give --knn.val-shards "
            "(labelled shards, other images than --shards)"
        )
    if sweep.objective == "heldout_loss" and config.heldout.shards is None:
        raise InputError(
            "no trial would report the held-out loss that it is judged by: give --heldout.shards"
        )


def write_description(sweep: Sweep, description: dict[str, Any]) -> None:
    """Writes ``sweep.json``."""
    text = json.dumps(description, indent=1)
    write_atomically(sweep.folder / SWEEP_FILE, text.encode() + b"\n")


def read_description(folder: Path) -> dict[str, Any] | None:
    """What ``sweep.json`` says; None where there is none.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / SWEEP_FILE
    if not path.exists():
        return None
    try:
        description: dict[str, Any] = json.loads(path.read_text())
        if description["version"] != VERSION:
            raise ValueError(f"version {description['version']} instead of {VERSION}")
        return description
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): choose another --out") from error


def check_folder(sweep: Sweep, data_digest: str) -> None:
    """Raises ``InputError`` when the folder holds something else than this very sweep.

    More or fewer trials than before are the same sweep, unless they are a grid's.
    """
    folder = sweep.folder
    before = read_description(folder)
    if before is None:
        others = folder.is_dir() and {path.name for path in folder.iterdir()} - {LOCK_FILE}
        if others or (folder.exists() and not folder.is_dir()):
            raise InputError(f"{folder} exists and is no sweep: choose another --out")
        return
    lines = differences(before, sweep.description(data_digest))
    if lines:
        raise InputError(
            f"{folder} holds another sweep ({'; '.join(lines)}): start it with the same settings "
            "to go on with it, or choose another --out"
        )


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Names what differs between two descriptions of sweeps, as ``name: old -> new``."""
    flat_old, flat_new = _flat(old), _flat(new)
    names = [name for name in [*flat_old, *flat_new] if flat_old.get(name) != flat_new.get(name)]
    return [
        f"{name.removeprefix('config.')}: {_brief(flat_old.get(name))} -> "
        f"{_brief(flat_new.get(name))}"
        for name in dict.fromkeys(names)
    ]


def _flat(description: dict[str, Any]) -> dict[str, Any]:
    """What decides the trials' results, by dotted name; a domain of the space is one value."""
    flat: dict[str, Any] = {}

    def add(prefix: str, part: dict[str, Any]) -> None:
        for key, value in part.items():
            name = f"{prefix}{key}"
            if name.removeprefix("config.").startswith(NOT_COMPARED):
                continue
            if isinstance(value, dict) and prefix != "space.":
                add(f"{name}.", value)
            else:
                flat[name] = value

    ignored = ("fingerprint", "name", "num_trials", "version")
    add("", {key: value for key, value in description.items() if key not in ignored})
    return flat


def _brief(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    if value is None:
        return "none"
    if not isinstance(value, dict):
        return str(value)
    return shown({key: inner for key, inner in value.items() if inner is not None})


def _fingerprint(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_flat(description), sort_keys=True).encode()).hexdigest()
