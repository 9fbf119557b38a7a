"""Declared views and their batches, for tests: 32 px in 4 x 4 patches unless said."""

from pathlib import Path
from typing import Any

from pipeline.shardset.manifest import load_dataset_info
from training.data.stream import BatchDataset
from training.data.stream_config import StreamConfig
from training.randomness.draws import KEY, QUERY, view_number
from training.views.fills import fill_named
from training.views.inputs import EncoderInputs, HostBatch, build_inputs
from training.views.settings import AugmentConfig, MaskConfig, ViewConfig
from training.views.spec import ViewSettings, ViewSpec

QUERY_VIEW, KEY_VIEW, NEGATIVE_VIEW = map(view_number, (QUERY, KEY, "negative-key-0"))


def settings_of(fill: str = "mean", *, size: int = 32, grid: int = 4, **masks: Any) -> ViewSettings:  # noqa: ANN401
    """Settings of a run, with fields of its ``MaskConfig``."""
    cut = ViewConfig(size=size, grid=grid)
    return ViewSettings(cut=cut, masks=MaskConfig(**masks), fill=fill_named(fill))


def views_of(
    settings: ViewSettings, *, of_key: int = 1, of_query: int = 0, exchange: float | None = None
) -> tuple[ViewSpec, ...]:
    """Query, key, so many hard negatives of each, and the exchanged query if wanted."""
    negatives = [
        settings.hard_negative(source, index)
        for source, count in ((KEY, of_key), (QUERY, of_query))
        for index in range(count)
    ]
    copies = () if exchange is None else (settings.exchanged(exchange),)
    return (settings.query(), settings.key(), *negatives, *copies)


def dataset_of(
    root: Path,
    views: tuple[ViewSpec, ...],
    *,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 3,
    batch_size: int = 8,
    **stream: Any,  # noqa: ANN401
) -> BatchDataset:
    """One rank's batches of a shard set, with fields of ``StreamConfig``."""
    config = StreamConfig(
        seed=seed, batch_size=batch_size, views=views, augment=AugmentConfig(), **stream
    )
    info = load_dataset_info(root)
    return BatchDataset(root, info, config, rank=rank, world_size=world_size)


def built(batch: HostBatch, views: tuple[ViewSpec, ...], settings: ViewSettings) -> EncoderInputs:
    """What the encoders see of a batch."""
    return build_inputs(batch, views, masks=settings.masks, fill=settings.fill)
