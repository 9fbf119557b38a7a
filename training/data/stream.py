"""The stream of batches: which samples make up global step t of epoch e, and their views.

The order is a pure function of (shard sizes, seed, epoch), the same for any number of ranks and
loader workers; so are all draws. A run that resumes therefore names the next step and goes on
there, without reading what it skips.

Shapes: V views (0 query, 1 key), B samples of one rank, G grid side, S view side.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.codecs import decode_saliency, decode_stored
from pipeline.errors import DamagedSampleError, ImageError
from pipeline.manifest import DatasetInfo
from pipeline.shard_cache import CacheConfig
from pipeline.shard_reader import ShardSetReader
from pipeline.stores.storage import Place
from training.augment import AugmentConfig, ColourDraws, draw_colours
from training.data.damage import Damage, OnDamaged, read_places
from training.data.draws import View, sample_seeds, torch_seeds
from training.data.order import EpochOrder
from training.data.subset import Subset
from training.data.views import ViewConfig, cut_views, draw_crops, pool_saliency
from training.masking.config import MaskConfig
from training.masking.draws import MaskDraws, box_side, draw_masks

WINDOWS_AHEAD = 2
"""Windows of shards that are on the local disk or on their way to it: the one that is read, and the
next."""


class HostBatch(NamedTuple):
    """One rank's share of a global batch as the loader hands it over, all on the CPU."""

    sample_ids_B: Tensor
    """int64, row numbers in the shard set."""
    noise_seeds_B: Tensor
    """int64, the bits of the sample seeds, for noise that is drawn on the device."""
    images_VBCHW: Tensor
    """uint8, two crops of each image (channels last in memory)."""
    saliency_VBGG: Tensor
    """float32 in [0, 1], the image's own saliency, pooled to the patches of each view."""
    mask_saliency_VBGG: Tensor
    """The saliency that steers the masks: another image's with strategy ``shuffled``."""
    query_colours: ColourDraws
    key_colours: ColourDraws
    masks: dict[int, MaskDraws]
    """By the number of the view: those of the masked views and of the hard negatives."""
    weights_B: Tensor | None = None
    """float32, 0 where another sample stands in for a damaged one, else 1; None: all are 1."""
    damages: tuple[Damage, ...] = ()
    """What was damaged, by position."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What decides the batches.

    Attributes:
        seed: the run's seed.
        batch_size: global batch, all ranks together.
        negatives: numbers of the views that are hard negatives (`draws.negative_view`).
        window: shards whose samples are mixed.
        on_damaged: what becomes of a damaged sample (`training.data.damage`).
        data_fraction: share of the samples that are used (`training.data.subset`).
    """

    seed: int
    batch_size: int
    views: ViewConfig
    augment: AugmentConfig
    masks: MaskConfig
    negatives: tuple[int, ...] = (View.NEGATIVE,)
    window: int = 16
    on_damaged: OnDamaged = "raise"
    data_fraction: float = 1.0


class BatchDataset(Dataset[HostBatch]):
    """Map-style over global steps: item ``step`` is this rank's share of that step's batch.

    Decodes every image once, cuts both crops and pools the saliency; draws all the numbers that
    the device will apply.

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
            DamagedSampleError: names shard and key, where damaged samples are not to be skipped.
        """
        config, views, masks = self.config, self.config.views, self.config.masks
        if self.reader.is_remote:
            self._fetch_ahead(step)
        places, ids_B = self.places, self.sample_ids(step)
        seeds_B = sample_seeds(config.seed, step // self.steps_per_epoch, ids_B)

        def id_at(place: int) -> int:
            if place in places:
                return int(ids_B[place - places.start])
            return int(self.sample_ids(step, range(place, place + 1))[0])

        decoded, damages = read_places(
            self._decode, id_at, places, batch_size=config.batch_size, on_damaged=config.on_damaged
        )
        images = [image for image, _ in decoded]
        maps = {"own": np.stack([saliency for _, saliency in decoded])}
        if masks.strategy == "shuffled":
            # Another image's map: the next one's in the global batch, of those that are sound.
            following = range(places.start + 1, places.stop + 1)
            partners, _ = read_places(
                self._decode_saliency,
                id_at,
                following,
                batch_size=config.batch_size,
                on_damaged=config.on_damaged,
            )
            maps["partner"] = np.stack(partners)
        heights_B = np.array([image.shape[0] for image in images], dtype=np.int64)
        widths_B = np.array([image.shape[1] for image in images], dtype=np.int64)

        cut = np.empty((2, len(images), views.size, views.size, 3), dtype=np.uint8)
        pooled: dict[str, list[NDArray[np.float32]]] = {name: [] for name in maps}
        for view in (View.QUERY, View.KEY):
            crops = draw_crops(seeds_B, heights_B, widths_B, view=view, config=views)
            cut_views(images, crops, cut[view])
            for name, maps_BPP in maps.items():
                pooled[name].append(pool_saliency(maps_BPP, heights_B, widths_B, crops, views.grid))
        saliency = {name: torch.from_numpy(np.stack(parts)) for name, parts in pooled.items()}
        colours = [
            draw_colours(seeds_B, view=view, config=config.augment, view_size=views.size)
            for view in (View.QUERY, View.KEY)
        ]
        return HostBatch(
            sample_ids_B=torch.from_numpy(ids_B),
            noise_seeds_B=torch_seeds(seeds_B),
            images_VBCHW=torch.from_numpy(cut).permute(0, 1, 4, 2, 3),
            saliency_VBGG=saliency["own"],
            mask_saliency_VBGG=saliency.get("partner", saliency["own"]),
            query_colours=colours[View.QUERY],
            key_colours=colours[View.KEY],
            masks={
                view: draw_masks(
                    seeds_B,
                    view=view,
                    ratio=masks.ratio(view),
                    grid=views.grid,
                    view_size=views.size,
                    box_side=box_side(view, views.size),
                )
                for view in (*masks.masked_views, *config.negatives)
            },
            weights_B=self._weights(damages),
            damages=damages,
        )

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


def _damaged(what: str, error: ImageError) -> DamagedSampleError:
    return DamagedSampleError(
        f"{what} is damaged ({error}): "
        "rerun the precompute job on the same sources and the shard is rebuilt"
    )
