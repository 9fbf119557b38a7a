"""The stream of batches: which samples make up global step t of epoch e, and their views.

The order is a pure function of (shard sizes, seed, epoch), the same for any number of ranks and
loader workers; so are all draws. A run that resumes therefore names the next step and goes on
there, without reading what it skips.

Shapes: V views (0 query, 1 key), B samples of one rank, G grid side, S view side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.codecs import decode_saliency, decode_stored
from pipeline.errors import ImageError, InputError
from pipeline.manifest import DatasetInfo
from pipeline.shards import ShardSetReader
from training.augment import AugmentConfig, ColourDraws, draw_colours
from training.draws import View, sample_seeds, torch_seeds
from training.mask_config import MaskConfig
from training.mask_draws import MaskDraws, box_side, draw_masks
from training.memory import keep_freed_memory
from training.order import EpochOrder
from training.views import ViewConfig, cut_views, draw_crops, pool_saliency


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


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What decides the batches.

    Attributes:
        seed: the run's seed.
        batch_size: global batch, all ranks together.
        negatives: numbers of the views that are hard negatives (`training.draws.negative_view`).
        window: shards whose samples are mixed.
    """

    seed: int
    batch_size: int
    views: ViewConfig
    augment: AugmentConfig
    masks: MaskConfig
    negatives: tuple[int, ...] = (View.NEGATIVE,)
    window: int = 16


class BatchDataset(Dataset[HostBatch]):
    """Map-style over global steps: item ``step`` is this rank's share of that step's batch.

    Decodes every image once, cuts both crops and pools the saliency; draws all the numbers that
    the device will apply.

    Args:
        root: folder of the shard set.
        info: its ``dataset.json``.
        config: what decides the batches.
        rank: this rank.
        world_size: number of ranks; divides the batch.
    """

    def __init__(
        self, root: Path, info: DatasetInfo, config: StreamConfig, *, rank: int, world_size: int
    ) -> None:
        assert config.batch_size % world_size == 0, (config.batch_size, world_size)
        self.reader = ShardSetReader(root, info)
        self.config = config
        self.steps_per_epoch = self.reader.num_samples // config.batch_size
        self._rank_batch = config.batch_size // world_size
        self._offset = rank * self._rank_batch
        self._order: tuple[int, EpochOrder] | None = None

    def sample_ids(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """This rank's samples at global ``step``, and each one's successor in the global batch."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = EpochOrder(
                self.reader.shard_sizes,
                seed=self.config.seed,
                epoch=epoch,
                window=self.config.window,
            )
            self._order = (epoch, order)
        start = step_in_epoch * self.config.batch_size
        batch = self._order[1].sample_ids(start, start + self.config.batch_size)
        mine = slice(self._offset, self._offset + self._rank_batch)
        return batch[mine], np.roll(batch, -1)[mine]

    def __getitem__(self, step: int) -> HostBatch:
        """Reads, decodes and cuts; raises ``InputError`` naming shard and key of a bad sample."""
        config, views, masks = self.config, self.config.views, self.config.masks
        ids_B, partners_B = self.sample_ids(step)
        seeds_B = sample_seeds(config.seed, step // self.steps_per_epoch, ids_B)

        decoded = [self._decode(int(i)) for i in ids_B]
        images = [image for image, _ in decoded]
        maps = {"own": np.stack([saliency for _, saliency in decoded])}
        if masks.strategy == "shuffled":
            maps["partner"] = np.stack(
                [decode_saliency(self.reader.read_saliency(int(i))) for i in partners_B]
            )
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
        )

    def _decode(self, sample_id: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        sample = self.reader.read(sample_id)
        try:
            return decode_stored(sample.image), decode_saliency(sample.saliency)
        except ImageError as error:
            raise InputError(
                f"sample {sample.key} in {sample.shard} is damaged ({error}): "
                "rerun the precompute job on the same sources and the shard is rebuilt"
            ) from error


class StepSampler(Sampler[int]):
    """The global steps from ``start`` up to ``stop``, in order."""

    def __init__(self, start: int, stop: int) -> None:
        self._steps = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def _as_it_is(batch: Any) -> HostBatch:  # noqa: ANN401  (torch says that batches are lists)
    assert isinstance(batch, HostBatch)
    return batch


def _start_worker(_number: int) -> None:
    keep_freed_memory()


def make_loader(
    dataset: BatchDataset, *, start_step: int, stop_step: int, num_workers: int, pin_memory: bool
) -> DataLoader[HostBatch]:
    """A loader over the steps of a whole run, so that its workers start only once.

    Args:
        dataset: batches by global step.
        start_step: first step.
        stop_step: step after the last.
        num_workers: loader processes; 0 loads in the training process.
        pin_memory: copy batches into page-locked memory (for CUDA).
    """
    return DataLoader(
        dataset,
        batch_size=None,
        collate_fn=_as_it_is,
        sampler=StepSampler(start_step, stop_step),
        num_workers=num_workers,
        pin_memory=pin_memory,
        # Forking a process that runs Ray's or gloo's threads can deadlock.
        multiprocessing_context="spawn" if num_workers else None,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=_start_worker if num_workers else None,
    )
