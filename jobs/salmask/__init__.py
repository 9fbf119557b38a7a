"""salmask from Python: shards, pretraining, features.

Nothing is imported before it is used. `pipeline.api` and `training.api` have the documentation.
"""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.api import Sample, ShardSet, precompute
    from training.api import Run, embed, load_backbone, pretrain

__all__ = ["Run", "Sample", "ShardSet", "embed", "load_backbone", "precompute", "pretrain"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'salmask' has no attribute {name!r}")
    home = "pipeline" if name in ("Sample", "ShardSet", "precompute") else "training"
    return getattr(importlib.import_module(f"{home}.api"), name)


def __dir__() -> list[str]:
    return __all__


def _refuse_others() -> None:
    """Raise ImportError where another package stands before one of ours."""
    beside = Path(__file__).resolve().parents[1]
    own = beside if (beside / "pipeline").is_dir() else beside.parent  # installed, or a checkout
    for name in ("pipeline", "training", "jobs"):
        spec = find_spec(name)
        found = Path(spec.origin or "").resolve().parent if spec else None
        if found != own / name:
            raise ImportError(
                f"salmask wants its own package {name!r}, {own / name}, and Python finds "
                f"{found or 'none'} first: work in another folder, or rename that one"
            )


_refuse_others()
