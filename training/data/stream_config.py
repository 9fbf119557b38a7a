"""What decides the batches of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.data.damage import OnDamaged
from training.views.settings import AugmentConfig
from training.views.spec import ViewSpec


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What decides the batches.

    Attributes:
        seed: the run's seed.
        batch_size: global batch, all ranks together.
        views: what the method sees of every image.
        augment: ranges of the colours.
        window: shards whose samples are mixed (`EpochOrder`).
        decode: full: whole images; reduced: JPEGs at a half, a quarter or an eighth of their size,
            where all crops of an image allow it (`reductions`).
        on_damaged: see `training.data.stream`.
        data_fraction: share of the samples that are used (`EpochOrder`).
        selection: folder that names the samples that are used; None: all.
        num_replayed: images of earlier sets in every global batch.
        keep: share of their samples that are used.
    """

    seed: int
    batch_size: int
    views: tuple[ViewSpec, ...]
    augment: AugmentConfig
    window: int = 16
    decode: Literal["full", "reduced"] = "full"
    on_damaged: OnDamaged = "raise"
    data_fraction: float = 1.0
    selection: Path | None = None
    num_replayed: int = 0
    keep: float = 1.0
