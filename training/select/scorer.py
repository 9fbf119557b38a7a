"""Score the images of a pool, shard by shard; the scores of a shard are one parquet file.

Shapes: M images of a shard, D features.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

from pipeline.core.errors import write_error
from pipeline.core.progress import listening
from pipeline.shardset.manifest import load_dataset_info, read_manifest
from pipeline.storage.atomic import atomic_file
from training.evaluate.encoders import NamedEncoder, load_encoders
from training.evaluate.features import CPU_ROWS
from training.evaluate.labelled import LabelledImages, evenly_chosen, open_labelled, stored_images
from training.randomness.draws import Stream, sample_seeds, uniforms
from training.select.config import ChooseConfig
from training.select.scores import cosine_scores, image_losses

NUM_PAIRS, PAIR_SEED = 4, 0x50414952
"""Pairs of views of each image, and their seed, whatever that of the selection is."""
REFERENCES, BANK_SIZE = 4096, 1024
"""Most images of the target, and of the pool for clusters; and those of the bank of negatives."""
TEMPERATURE, KMEANS_STEPS, GPU_ROWS = 0.1, 30, 256
Reference = dict[str, Tensor]
"""What images are compared with: `centres` of clusters, and features of the `target`, or keys of
the bank under each encoder (`0`, `1`) with the `numbers` of its images."""


class Scorer:
    """A pool and the encoders that score it; InputError: they or the target cannot be used."""

    def __init__(self, config: ChooseConfig) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        rows = CPU_ROWS if device.type == "cpu" else GPU_ROWS
        self.config, self.info = config, load_dataset_info(config.pool)
        self._pool = stored_images(config.pool)
        self._target = open_labelled(config.target, labels=False)
        self._encoders = [  # one by one: the same may be given twice
            load_encoders([str(path)], encoder="query", seed=0, device=device, batch_size=rows)[0]
            for path in (config.checkpoint, config.target_checkpoint)
            if path is not None
        ]
        self.about = {
            "pool": self._pool.digest,
            "target": self._target.digest,
            "encoders": [[e.digest, asdict(e.info.preprocessing)] for e in self._encoders],
            **{name: getattr(config, name) for name in ("score", "clusters", "seed")},
        }
        """What decides the scores."""
        digest = hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()
        folder = config.out / f"scores-{digest[:12]}"
        self.files = [folder / f"{shard.name}.parquet" for shard in self.info.shards]
        """Of each shard: key, number in the pool, score and cluster of each image."""

    def reference(self) -> Reference:
        """Compute what images are compared with, from evenly spread images."""
        if not self._encoders:
            return {}
        first, num_images = self._encoders[0], self._pool.num_images
        rows_MD = _features(first, self._pool, evenly_chosen(num_images, REFERENCES))
        found = {"centres": _centres(rows_MD, self.config.clusters, seed=self.config.seed)}
        if self.config.score == "cosine":
            shown = evenly_chosen(self._target.num_images, REFERENCES)
            return found | {"target": _features(first, self._target, shown)}
        bank = evenly_chosen(num_images, BANK_SIZE)
        keys = {str(n): _pair(e, self._pool, bank, 0)[1] for n, e in enumerate(self._encoders)}
        return found | keys | {"numbers": torch.from_numpy(bank)}

    def score(self, reference: Reference, number: int) -> None:
        """Score the images of a shard, and write them all at once."""
        first, size = sum(self._pool.shard_sizes[:number]), self._pool.shard_sizes[number]
        numbers_M = np.arange(first, first + size)
        with listening(None):
            scores_M, clusters_M = self._scores(reference, numbers_M)
        table = read_manifest(self.config.pool, self.info.shards[number].name, ["key"])
        for name, column in (("number", numbers_M), ("score", scores_M), ("cluster", clusters_M)):
            table = table.append_column(name, pa.array(column))
        try:
            with atomic_file(self.files[number]) as file:
                pq.write_table(table, file)
        except OSError as error:
            raise write_error(str(self.files[number]), error) from error

    def _scores(
        self, reference: Reference, numbers_M: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        if not self._encoders:
            seeds_M = sample_seeds(self.config.seed, 0, numbers_M)
            return uniforms(seeds_M, 0, Stream.SELECTION, 1)[:, 0], np.zeros_like(numbers_M)
        features_MD = _features(self._encoders[0], self._pool, numbers_M)
        clusters_M = (features_MD @ reference["centres"].T).argmax(dim=1).numpy()
        if self.config.score == "cosine":
            return cosine_scores(features_MD, reference["target"]).numpy(), clusters_M
        is_own_MB = torch.from_numpy(numbers_M)[:, None] == reference["numbers"]
        losses_2M = torch.zeros(2, len(numbers_M), dtype=torch.float64)
        for number, encoder in enumerate(self._encoders):
            for pair in range(NUM_PAIRS):  # the same for both
                rows = (*_pair(encoder, self._pool, numbers_M, pair), reference[str(number)])
                losses_2M[number] += image_losses(*rows, is_own_MB, temperature=TEMPERATURE)
        return ((losses_2M[0] - losses_2M[1]) / NUM_PAIRS).numpy(), clusters_M


def scoring(config: ChooseConfig, reference: Reference) -> Callable[[int], None]:
    """The work of one process: a function that scores a shard by number."""
    scorer = Scorer(config)
    return lambda number: scorer.score(reference, number)


def _features(encoder: NamedEncoder, images: LabelledImages, numbers: NDArray[np.int64]) -> Tensor:
    """Unit features of test-time views, [M, D]."""
    return F.normalize(encoder.extract(encoder.batches(images, numbers.tolist()))[0], dim=1)


@torch.inference_mode()
def _pair(
    encoder: NamedEncoder, images: LabelledImages, numbers: NDArray[np.int64], pair: int
) -> tuple[Tensor, Tensor]:
    """Unit features of two augmented views of each image, [M, D]."""
    first_MD, second_MD = encoder.two_views(images, numbers, seed=PAIR_SEED + pair)
    return F.normalize(first_MD, dim=1), F.normalize(second_MD, dim=1)


def _centres(features_MD: Tensor, count: int, *, seed: int) -> Tensor:
    """Centres of k-means on unit features, as unit rows; at most as many as features."""
    rows, generator = features_MD.double().numpy(), np.random.default_rng(seed)
    count = min(count, len(rows))
    centres, labels = kmeans2(rows, count, iter=KMEANS_STEPS, minit="++", seed=generator)
    kept = centres[np.unique(labels)]  # an empty cluster has no centre of its own
    return F.normalize(torch.from_numpy(kept), dim=1).float()
