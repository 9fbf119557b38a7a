"""The views and the stream of batches that follow from a run's configuration."""

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo, load_dataset_info
from pipeline.storage.storage import Location
from training.config.pretrain import PretrainConfig
from training.data.stream_config import StreamConfig
from training.methods.interface import Method
from training.methods.registry import find_method
from training.randomness.draws import view_group
from training.views.fills import fill_named
from training.views.spec import LOCAL, ViewSettings, ViewSpec


def view_settings(config: PretrainConfig) -> ViewSettings:
    """The settings by which a run cuts, masks and fills views."""
    return ViewSettings(cut=config.views, masks=config.masks, fill=fill_named(config.fill))


def declared_views(config: PretrainConfig) -> tuple[ViewSpec, ...]:
    """The views that a run's method wants of every image.

    Raises:
        InputError: local crops are asked for, and the method takes none; or learned masks, and it
            has no loss for their generator.
    """
    method = find_method(config.method.name)
    views = method.views(config.method, view_settings(config))
    if config.masks.strategy == "learned" and method.adversary_loss is Method.adversary_loss:
        raise InputError(
            f"masks.strategy learned: method {config.method.name} offers no adversary_loss, which "
            "the masks are learned from: choose --method simclr or moco_v2"
        )
    if config.views.local and not any(view_group(view.name) == LOCAL for view in views):
        raise InputError(
            f"views.local {config.views.local}: method {config.method.name} takes no local crops"
        )
    return views


def stream_config(config: PretrainConfig) -> StreamConfig:
    """The settings that decide a run's batches."""
    return StreamConfig(
        seed=config.seed,
        batch_size=config.batch_size,
        views=declared_views(config),
        augment=config.augment,
        decode=config.decode,
        on_damaged=config.on_damaged,
        data_fraction=config.data_fraction,
        selection=config.selection,
        num_replayed=config.num_replayed,
        keep=config.replay.keep,
    )


def replayed_sets(config: PretrainConfig) -> list[tuple[Location, DatasetInfo]]:
    """The earlier sets of which a run replays images; SetError where one is missing."""
    roots = config.replay.shards if config.num_replayed else ()
    return [(root, load_dataset_info(root)) for root in roots]
