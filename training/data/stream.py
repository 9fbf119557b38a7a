"""The stream of batches: which samples make up global step t of epoch e, and their views.

The order and all draws are pure functions of (shard sizes, seed, epoch), the same for any number of
ranks and loader workers. A run that resumes continues at the next step without reading what it
skips.

A damaged sample raises an error that names it. Under the policy ``skip`` the next good sample of
the *global* batch (after its last one comes its first) stands in, with weight 0 in the loss. Which
one follows from the batch alone, so the batch is the same for any number of ranks and keeps its
shape. A stand-in is cut and coloured by the draws of the damaged sample: it is another view of its
image, not a copy. MoCo's queue takes its key like any other; SimCLR, whose negatives are the batch
itself, leaves it out.

Shapes: B samples of one rank, P side of a stored saliency map.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from operator import itemgetter
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset

from pipeline.core.errors import DamagedSample
from pipeline.images.codecs import Picture
from pipeline.shardset.cache import CacheConfig
from pipeline.shardset.manifest import DatasetInfo
from pipeline.shardset.reader import ShardSetReader
from pipeline.storage.storage import Place
from training.data.damage import OnDamaged
from training.data.order import ROWS, SET_BITS, EpochOrder, num_used
from training.data.replay import ReplayOrder
from training.data.selection import read_selection
from training.data.stream_config import StreamConfig
from training.randomness.draws import sample_seeds, torch_seeds
from training.views.crops import crop_batches
from training.views.exchange import PatchSwap
from training.views.inputs import Damage, HostBatch
from training.views.reduction import reductions
from training.views.spec import ViewSpec, crops_of

Item = TypeVar("Item")
Ids = NDArray[np.int64]
WINDOWS_AHEAD = 2
"""Windows of shards on the local disk or on their way to it: the one being read, and the next."""


class BatchDataset(Dataset[HostBatch]):
    """Map-style over global steps: item ``step`` is this rank's share of that step's batch.

    Decodes every image once, cuts its crops, pools the saliency and draws all other numbers. `info`
    is the set's ``dataset.json``, `world_size` the number of ranks, which divides the batch, and
    `cache` says where shards of a bucket lie while they are read. `replayed` are the earlier sets,
    where the batches have images of such (`replay`).
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
        replayed: Sequence[tuple[Place, DatasetInfo]] = (),
    ) -> None:
        assert config.batch_size % world_size == 0, (config.batch_size, world_size)
        self._readers = [ShardSetReader(*one, cache) for one in ((root, info), *replayed)]
        self.reader = self._readers[0]  # of the set itself
        folder, fraction = config.selection, config.data_fraction
        self._chosen = None if folder is None else read_selection(folder, info).numbers
        self._replay: ReplayOrder | None = None
        if config.num_replayed:
            sizes = [reader.shard_sizes for reader in self._readers[1:]]
            names = ("num_replayed", "batch_size", "seed", "keep", "window")
            self._replay = ReplayOrder(sizes, **{name: getattr(config, name) for name in names})
        num_new = config.batch_size - config.num_replayed
        self.steps_per_epoch = num_used(info, fraction, folder) // num_new
        """Of a pass over the set."""
        share = config.batch_size // world_size
        self.positions = range(rank * share, (rank + 1) * share)
        """This rank's positions in every global batch."""
        self._orders: dict[int, EpochOrder] = {}
        self._ahead: tuple[int, int] | None = None
        self._set(config)

    def _set(self, config: StreamConfig) -> None:
        views = config.views
        self.config, self._crops = config, crops_of(views)
        self._maskers = [(view, view.masker) for view in views if view.masker is not None]
        self._swaps = [(view, view.fill) for view in views if isinstance(view.fill, PatchSwap)]
        self._steered_by_next = any(masker.steered_by_next for _, masker in self._maskers)

    def with_views(self, views: tuple[ViewSpec, ...]) -> "BatchDataset":
        """The same batches with other views of their images."""
        other = copy.copy(self)
        other._set(replace(self.config, views=views))
        return other

    def sample_ids(self, step: int, positions: range | None = None) -> Ids:
        """The samples at some positions of the global batch at ``step``; by default, this rank's.

        With many ranks a global batch spans many windows of shards: only these are laid out.
        """
        return self._samples(step, self.positions if positions is None else positions)[0]

    def _samples(self, step: int, positions: range) -> tuple[Ids, int | Ids]:
        """The samples at some positions, and the epoch that their draws follow from."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        first, new = step_in_epoch * self.config.batch_size, self._order(epoch).sample_ids
        places = range(first + positions.start, first + positions.stop)
        if self._replay is None:
            return new(places.start, places.stop), epoch
        return self._replay.mixed(places, epoch, first_step=epoch * self.steps_per_epoch, new=new)

    def read_pixels(self, sample_id: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """`ShardSetReader.read_pixels` of a sample of any set."""
        return self._readers[sample_id >> SET_BITS].read_pixels(sample_id & ROWS)

    def keys_at(self, step: int) -> list[str]:
        """Keys of the global batch at ``step``, in order; those of earlier sets with their set."""
        ids = self.sample_ids(step, range(self.config.batch_size)).tolist()
        found = [(self._readers[one >> SET_BITS], one & ROWS) for one in ids]
        return [
            reader.key(row) if reader is self.reader else f"{reader.store.url}: {reader.key(row)}"
            for reader, row in found
        ]

    def _order(self, epoch: int) -> EpochOrder:
        if epoch not in self._orders:
            self._orders = {epoch: self._new_order(epoch)}
        return self._orders[epoch]

    def _new_order(self, epoch: int) -> EpochOrder:
        sizes, config = self.reader.shard_sizes, self.config
        share, window, chosen = config.data_fraction, config.window, self._chosen
        return EpochOrder(
            sizes, seed=config.seed, epoch=epoch, window=window, fraction=share, chosen=chosen
        )

    def _fetch_ahead(self, step: int) -> None:
        """Fetch the shards of this window and of the next, which may be in the next epoch."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        place = step_in_epoch * self.config.batch_size + self.positions.start
        if self._replay is not None:
            found = self._replay.shards_from(step, WINDOWS_AHEAD)
            for number, reader in enumerate(self._readers[1:], start=1):
                reader.ahead([shard for one, shard in found if one == number])
            place -= self._replay.num_before(place)
        order = self._order(epoch)
        window = order.window_of(place)
        if self._ahead == (epoch, window):
            return
        self._ahead = (epoch, window)
        shards = order.shards_from(window, WINDOWS_AHEAD)
        if len(shards) <= self.config.window:
            shards += self._new_order(epoch + 1).shards_from(0, 1)
        self.reader.ahead(shards)

    def __getitem__(self, step: int) -> HostBatch:
        """Read, decode and cut.

        Raises:
            DamagedSample: names shard and key, where damaged samples are not to be skipped.
        """
        config, number = self.config, len(self.positions)
        if any(reader.is_remote for reader in self._readers):
            self._fetch_ahead(step)
        ids_B, epochs = self._samples(step, self.positions)
        seeds_B = sample_seeds(config.seed, epochs, ids_B)
        if self._swaps:  # the image after this rank's last one lends its patches
            ids_1, epochs = self._samples(step, self._place(self.positions.stop))
            seeds_B = np.append(seeds_B, sample_seeds(config.seed, epochs, ids_1))
        images, maps, damages = self._read(step, ids_B, seeds_B)
        crops = crop_batches(images, maps, seeds_B, self._crops, config.augment)
        lent, last = {view.crop.name for view, _ in self._swaps}, itemgetter(slice(number, None))
        following = {name: tree_map_only(Tensor, last, crops[name]) for name in sorted(lent)}
        crops = tree_map_only(Tensor, itemgetter(slice(number)), crops)
        seeds_B = seeds_B[:number]
        return HostBatch(
            sample_ids_B=torch.from_numpy(ids_B),
            noise_seeds_B=torch_seeds(seeds_B),
            crops=crops,
            masks={
                view.name: masker.draw(seeds_B, view=view.name, cut=view.crop.cut)
                for view, masker in self._maskers
            },
            following=following,
            swaps={
                view.name: swap.draw(seeds_B, grid=view.crop.cut.grid) for view, swap in self._swaps
            },
            weights_B=self._weights(damages),
            damages=damages,
        )

    def _place(self, position: int) -> range:
        """A position of the global batch; beyond its end it begins again."""
        position %= self.config.batch_size
        return range(position, position + 1)

    def _read(
        self, step: int, ids_B: Ids, seeds_B: NDArray[np.uint64]
    ) -> tuple[list[Picture], list[NDArray[np.uint8]], tuple[Damage, ...]]:
        """This rank's images (and the next one to lend its patches), maps and damaged samples.

        Behind the images' maps, [B, P, P], come those of the next images where they steer masks.
        """
        own, size, policy = self.positions, self.config.batch_size, self.config.on_damaged

        def id_at(position: int) -> int:
            if position in own:
                return int(ids_B[position - own.start])
            return int(self.sample_ids(step, self._place(position))[0])

        def decode(position: int) -> tuple[Picture, NDArray[np.uint8], int]:
            sample = id_at(position)
            reader, by = self._readers[sample >> SET_BITS], reduced.get(position, 1)
            return *reader.read_reduced(sample & ROWS, by), sample

        def decode_map(position: int) -> NDArray[np.uint8]:
            number = position - own.start
            if position in own and number not in skipped:
                return samples[number][1]
            sample = id_at(position)
            return self._readers[sample >> SET_BITS].read_map(sample & ROWS)

        read = range(own.start, own.stop + bool(self._swaps))
        reduced: dict[int, int] = {}  # by how much, by position
        if self.config.decode == "reduced":
            places = [position % size for position in read]
            ids = map(id_at, places)
            sides = [self._readers[one >> SET_BITS].size(one & ROWS) for one in ids]
            by = reductions(seeds_B, np.array(sides), self._crops)
            reduced = dict(zip(places, by, strict=True))
        samples, damages = read_positions(decode, read, batch_size=size, on_damaged=policy)
        skipped = {damage.position for damage in damages}
        for number in skipped if reduced else ():  # its crops are not those it was reduced for
            samples[number] = (*self.read_pixels(samples[number][2]), samples[number][2])
        maps = [np.stack([saliency for _, saliency, _ in samples])]
        if self._steered_by_next:
            # Of a damaged image the map may be sound, and steers the mask of the one before.
            following = range(read.start + 1, read.stop + 1)
            partners, _ = read_positions(decode_map, following, batch_size=size, on_damaged=policy)
            maps.append(np.stack(partners))
        of_own = tuple(damage for damage in damages if damage.position < len(own))
        return [image for image, _, _ in samples], maps, of_own

    def _weights(self, damages: tuple[Damage, ...]) -> Tensor | None:
        if self.config.on_damaged == "raise":
            return None
        weights_B = torch.ones(len(self.positions))
        weights_B[[damage.position for damage in damages]] = 0
        return weights_B


def read_positions(
    read: Callable[[int], Item],
    positions: range,
    *,
    batch_size: int,
    on_damaged: OnDamaged,
) -> tuple[list[Item], tuple[Damage, ...]]:
    """Read the samples at some positions of a global batch; beyond its end it begins again.

    Returns what was read for each position, and the positions where another sample stands in.

    Raises:
        DamagedSample: by ``read`` under the policy ``raise``; or every sample is damaged.
    """

    @cache
    def attempt(position: int) -> Item | DamagedSample:
        try:
            return read(position)
        except DamagedSample as error:
            if on_damaged == "raise":
                raise
            return error

    items, damages = [], []
    for number, start in enumerate(positions):
        tried = (attempt(position % batch_size) for position in range(start, start + batch_size))
        first = found = next(tried)
        if isinstance(first, DamagedSample):
            damages.append(Damage(number, str(first)))
            found = next((one for one in tried if not isinstance(one, DamagedSample)), first)
        if isinstance(found, DamagedSample):
            raise DamagedSample(
                f"all {batch_size} samples of a global batch are damaged; the first one: {first}"
            )
        items.append(found)
    return items, tuple(damages)
