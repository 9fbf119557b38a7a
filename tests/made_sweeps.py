"""Small sweeps that train nothing, and made-up results of them that follow a known rule."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.shard_sets import write_shard_set
from training.config.fields import with_fields
from training.config.recipes import debug, with_method
from training.sweep.config import SearchOptions, Sweep, make_sweep
from training.sweep.preflight import describe, locked
from training.sweep.results import Status, Trial, write_table
from training.sweep.space import NamedSpace, Point, Space, parse_space

GRID = parse_space(grid=["masks.query_ratio=0.05:0.25,0.4", "optim.lr=0.01,0.02"])
MIXED = parse_space(
    grid=["masks.query_ratio=0.05:0.25,0.2:0.4,0.4"],
    choice=["fill=mean,blur,high_pass", "epochs=4,8"],
    log_uniform=["optim.lr=0.001..0.1"],
)
RATIOS, FILLS = ("0.05:0.25", "0.2:0.4", "0.4"), ("mean", "blur", "high_pass")


def write_sets(root: Path) -> Path:
    """Write 48 images to train on and 18 labelled others below a folder."""
    write_shard_set(root / "train", num_images=48)
    write_shard_set(root / "val", num_images=18, first_number=1000)
    return root


def small_sweep(out: Path, space: Space = GRID, **given: Any) -> Sweep:  # noqa: ANN401
    """A sweep of debug runs of four epochs on shards that need not be there."""
    changes = {"epochs": 4, "knn.val_shards": "/val"}
    if given.get("objective") == "heldout_loss":
        changes["heldout.shards"] = "/held"
    changes |= given.pop("changes", {})
    name, base = given.pop("name", ""), with_method("debug", debug(Path("/train"), out), "moco_v2")
    varied = NamedSpace(with_fields(base, changes), space)
    return make_sweep(varied, SearchOptions(**given), name)


def made_trials(number: int) -> list[Trial]:
    """Trials over `MIXED` whose kNN follows the learning rate, and the fill a little.

    Odd ones were stopped; trial 5 failed.
    """
    rng = np.random.default_rng(0)
    trials = []
    for trial in range(number):
        rate, fill = float(10 ** rng.uniform(-3, -1)), str(rng.choice(FILLS))
        knn = 45 - 12 * (np.log10(rate) + 1.8) ** 2 + 2 * (fill == "blur") + rng.normal(0, 0.8)
        status: Status = "stopped" if trial % 2 else "finished"
        values = {"knn": float(knn - 4 * (trial % 2)), "knn_images": 1000.0, "loss": 6 - knn / 20}
        point: Point = {
            "masks.query_ratio": str(rng.choice(RATIOS)),
            "fill": fill,
            "epochs": int(rng.choice([4, 8])),
            "optim.lr": rate,
        }
        trials.append(Trial(trial, point, status, 8.0 - 6 * (trial % 2), 40.0, values))
    for failed in trials[5:6]:
        message = "the loss is no longer finite at step 12 (nan)"
        trials[5] = replace(failed, status="failed", values={}, message=message)
    return trials


def write_sweep(
    folder: Path,
    trials: Sequence[Trial] | None = None,
    *,
    num_trials: int = 24,
    space: Space = MIXED,
    objective: str = "knn",
) -> Path:
    """Write a sweep with these trials, by default made-up ones; without any it has no table."""
    trials = made_trials(num_trials) if trials is None else trials
    search = "random" if space is MIXED else None
    num = num_trials if search else None
    sweep = small_sweep(folder, space, search=search, num_trials=num, objective=objective)
    with locked(folder, describe(sweep, "d" * 64)):
        if trials:
            write_table(sweep, trials)
    return folder
