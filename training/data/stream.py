"""The stream of batches: which samples make up global step t of epoch e, and their views.

The order is a pure function of (shard sizes, seed, epoch), the same for any number of ranks and
loader workers; so are all draws. A run that resumes therefore names the next step and goes on
there, without reading what it skips.

Shapes: B samples of one rank, R = B rows for each of some crops, P side of a stored saliency map, S
side of a crop.
"""

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.core.errors import DamagedSample, ImageError
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.shardset.cache import CacheConfig
from pipeline.shardset.manifest import DatasetInfo
from pipeline.shardset.reader import ShardSetReader
from pipeline.storage.storage import Place
from training.data.crop_batches import crop_batches
from training.data.damage import read_places
from training.data.order import EpochOrder
from training.data.settings import OnDamaged
from training.data.subset import Subset
from training.randomness.draws import sample_seeds, torch_seeds
from training.views.exchange import BackgroundSwap
from training.views.host_batch import Damage, HostBatch
from training.views.settings import AugmentConfig
from training.views.spec import Crop, ViewSpec, crops_of

WINDOWS_AHEAD = 2
"""Windows of shards that are on the local disk or on their way to it: the one that is read, and the
next."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What decides the batches.

    Attributes:
        seed: the run's seed.
        batch_size: global batch, all ranks together.
        views: what the method sees of every image.
        augment: ranges of the colours.
        window: shards whose samples are mixed.
        on_damaged: what becomes of a damaged sample (`training.data.damage`).
        data_fraction: share of the samples that are used (`training.data.subset`).
    """

    seed: int
    batch_size: int
    views: tuple[ViewSpec, ...]
    augment: AugmentConfig
    window: int = 16
    on_damaged: OnDamaged = "raise"
    data_fraction: float = 1.0

    @property
    def crops(self) -> tuple[Crop, ...]:
        """The crops of the views."""
        return crops_of(self.views)

    @property
    def needs_next(self) -> bool:
        """Whether the next image of the global batch lends its background."""
        return any(view.needs_next for view in self.views)

    @property
    def steered_by_next(self) -> bool:
        """Whether the next image's saliency steers a mask."""
        return any(view.masker is not None and view.masker.steered_by_next for view in self.views)


class BatchDataset(Dataset[HostBatch]):
    """Map-style over global steps: item ``step`` is this rank's share of that step's batch.

    Decodes every image once, cuts its crops and pools the saliency; draws all the numbers that the
    device will apply.

    Args:
        root: where the shard set lies.
        info: its ``dataset.json``.
        config: what decides the batches.
        rank: this rank.
        world_size: number of ranks; divides the batch.
        cache: where shards of a bucket lie while they are read.
    """

    def __init__(
        self,
        root: Place,
        info: DatasetInfo,
        config: StreamConfig,
        *,
        rank: int,
        world_size: int,
        cache: CacheConfig | None = None,
    ) -> None:
        assert config.batch_size % world_size == 0, (config.batch_size, world_size)
        self.reader = ShardSetReader(root, info, cache)
        self.config = config
        self._subset = Subset(self.reader.shard_sizes, config.data_fraction)
        self.steps_per_epoch = sum(self._subset.sizes) // config.batch_size
        self._rank_batch = config.batch_size // world_size
        self._offset = rank * self._rank_batch
        self._order: tuple[int, EpochOrder] | None = None
        self._ahead: tuple[int, int] | None = None

    def with_views(self, views: tuple[ViewSpec, ...]) -> "BatchDataset":
        """The same batches with other views of their images."""
        other = copy.copy(self)
        other.config = replace(self.config, views=views)
        return other

    @property
    def places(self) -> range:
        """This rank's positions in every global batch."""
        return range(self._offset, self._offset + self._rank_batch)

    def sample_ids(self, step: int, places: range | None = None) -> NDArray[np.int64]:
        """The samples at some places of the global batch at ``step``; by default, this rank's.

        No others are looked for: with many ranks a global batch spans many windows of shards.
        """
        places = self.places if places is None else places
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        start = step_in_epoch * self.config.batch_size
        numbers = self._epoch_order(epoch).sample_ids(start + places.start, start + places.stop)
        return self._subset.sample_ids(numbers)

    def _epoch_order(self, epoch: int) -> EpochOrder:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._new_order(epoch))
        return self._order[1]

    def _new_order(self, epoch: int) -> EpochOrder:
        config = self.config
        return EpochOrder(self._subset.sizes, seed=config.seed, epoch=epoch, window=config.window)

    def _fetch_ahead(self, step: int) -> None:
        """Shards of a bucket: those of this window, then of the next, in the next epoch even."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        position = step_in_epoch * self.config.batch_size + self.places.start
        window = self._epoch_order(epoch).window_of(position)
        if self._ahead == (epoch, window):
            return
        self._ahead = (epoch, window)
        shards = self._epoch_order(epoch).shards_from(window, WINDOWS_AHEAD)
        if len(shards) <= self.config.window:
            shards += self._new_order(epoch + 1).shards_from(0, 1)
        self.reader.ahead(shards)

    def __getitem__(self, step: int) -> HostBatch:
        """Reads, decodes and cuts.

        Raises:
            DamagedSample: names shard and key, where damaged samples are not to be skipped.
        """
        config = self.config
        if self.reader.is_remote:
            self._fetch_ahead(step)
        own_B = self.sample_ids(step)
        count, ids_B = len(own_B), own_B
        if config.needs_next:
            ids_B = np.append(own_B, self._id_at(step, self.places.stop))
        images, maps, damages = self._read(step, own_B)
        seeds_B = sample_seeds(config.seed, step // self.steps_per_epoch, ids_B)
        crops = crop_batches(images, maps, seeds_B, config.crops, config.augment)
        seeds_B = seeds_B[:count]
        lending = {view.crop.name for view in config.views if view.needs_next}
        return HostBatch(
            sample_ids_B=torch.from_numpy(own_B),
            noise_seeds_B=torch_seeds(seeds_B),
            crops={name: crop.rows(slice(count)) for name, crop in crops.items()},
            masks={
                view.name: view.masker.draw(seeds_B, view=view.name, cut=view.crop.cut)
                for view in config.views
                if view.masker is not None
            },
            following={name: crops[name].rows(slice(count, None)) for name in sorted(lending)},
            swaps={
                view.name: view.fill.draw(seeds_B, grid=view.crop.cut.grid)
                for view in config.views
                if isinstance(view.fill, BackgroundSwap)
            },
            weights_B=self._weights(damages),
            damages=damages,
        )

    def _id_at(self, step: int, place: int) -> int:
        """The sample at a place of the global batch; beyond its end it begins again."""
        place %= self.config.batch_size
        return int(self.sample_ids(step, range(place, place + 1))[0])

    def _read(
        self, step: int, ids_B: NDArray[np.int64]
    ) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]], tuple[Damage, ...]]:
        """This rank's images, their maps and, last, the maps that steer the masks, where others.

        Where backgrounds are exchanged the image after them comes too, and last.
        """
        places, size, policy = self.places, self.config.batch_size, self.config.on_damaged

        def id_at(place: int) -> int:
            return int(ids_B[place - places.start]) if place in places else self._id_at(step, place)

        read = range(places.start, places.stop + self.config.needs_next)
        decoded, damages = read_places(
            self._decode, id_at, read, batch_size=size, on_damaged=policy
        )
        damages = tuple(damage for damage in damages if damage.position < len(places))
        maps = [np.stack([saliency for _, saliency in decoded])]
        if self.config.steered_by_next:
            # Another image's map: the next one's in the global batch, of those that are sound.
            following = range(read.start + 1, read.stop + 1)
            partners, _ = read_places(
                self._decode_saliency, id_at, following, batch_size=size, on_damaged=policy
            )
            maps.append(np.stack(partners))
        return [image for image, _ in decoded], maps, damages

    def _weights(self, damages: tuple[Damage, ...]) -> Tensor | None:
        if self.config.on_damaged == "raise":
            return None
        weights_B = torch.ones(self._rank_batch)
        weights_B[[damage.position for damage in damages]] = 0
        return weights_B

    def _decode(self, sample_id: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        sample = self.reader.read(sample_id)
        try:
            return decode_stored(sample.image), decode_saliency(sample.saliency)
        except ImageError as error:
            raise _damaged(f"sample {sample.key} in {sample.shard}", error) from error

    def _decode_saliency(self, sample_id: int) -> NDArray[np.uint8]:
        try:
            return decode_saliency(self.reader.read_saliency(sample_id))
        except ImageError as error:
            raise _damaged(f"the saliency map of sample number {sample_id}", error) from error


def _damaged(what: str, error: ImageError) -> DamagedSample:
    return DamagedSample(
        f"{what} is damaged ({error}): "
        "rerun the precompute job on the same sources and the shard is rebuilt"
    )
