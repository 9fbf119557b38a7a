"""Small sweeps for tests that train nothing."""

from pathlib import Path
from typing import Any

from training.config.fields import with_fields
from training.config.recipes import debug, with_method
from training.sweep.config import Sweep, make_sweep
from training.sweep.space import Space, parse_space

GRID = parse_space(grid=["masks.query_ratio=0.05:0.25,0.4", "optim.lr=0.01,0.02"])


def small_sweep(out: Path, space: Space | None = None, **given: Any) -> Sweep:  # noqa: ANN401
    """A sweep of debug runs of four epochs on shards that need not be there."""
    changes = {"epochs": 4, "knn.val_shards": "/val"} | given.pop("changes", {})
    options: dict[str, Any] = {"search": None, "num_trials": None, **given}
    base = with_method("debug", debug(Path("/train"), out), "moco_v2")
    base = with_fields(base, changes)
    return make_sweep(base=base, space=GRID if space is None else space, **options)
