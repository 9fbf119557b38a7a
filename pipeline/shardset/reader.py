"""Read samples of a shard set by number: each is one positioned read in a tar."""

import os
import tarfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import DamagedSample, ImageError, InputError
from pipeline.images.codecs import Picture, decode_reduced, decode_saliency, decode_stored
from pipeline.shardset.cache import CacheConfig, ShardCache
from pipeline.shardset.manifest import AGAIN, DatasetInfo, read_manifest
from pipeline.shardset.schema import shard_file
from pipeline.storage.storage import Place, open_store
from pipeline.storage.store import LocalStore

OPEN_SHARDS = 64
INDEXED_SHARDS = 1024
"""Shards whose offsets a reader remembers: at 256 images a shard about 40 MB at most."""
SPANS = ["image_offset", "image_length", "saliency_offset", "saliency_length"]
SIZE = ["height", "width"]


@dataclass(frozen=True)
class StoredSample:
    """One sample as it is stored; label -1 if there is none."""

    key: str
    shard: str
    image: memoryview
    saliency: memoryview
    label: int


@dataclass(frozen=True)
class _ShardIndex:
    keys: list[str]
    extensions: list[str]
    spans: NDArray[np.int64]  # [n, 4], columns SPANS
    sizes: NDArray[np.int64]  # [n, 2], height and width
    labels: NDArray[np.int64]


class _OpenFile:
    """A descriptor that closes with its last reference, so that eviction is safe in threads."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.num_bytes = os.fstat(descriptor).st_size

    def __del__(self) -> None:
        os.close(self.descriptor)


class ShardSetReader:
    """Samples of a shard set by number.

    A sample's number is its row, shard after shard in the order of dataset.json. Offsets are
    loaded from the manifests when they are needed. The reader can be pickled and used from several
    threads: reads share no position and no lock. It can be forked if the set is local; see
    `pipeline.storage.object_store`.

    Args:
        place: of the set; shards of a bucket are read from a cache on the local disk.
        info: its dataset.json.
        cache: settings of that cache.
    """

    def __init__(self, place: Place, info: DatasetInfo, cache: CacheConfig | None = None) -> None:
        self.store = open_store(place)
        self.info = info
        remote = self.store.is_remote
        self._config = cache or CacheConfig()
        self._cache = ShardCache(self.store, self._config) if remote else None
        self.shard_sizes: tuple[int, ...] = tuple(shard.num_images for shard in info.shards)
        self._ends = list(accumulate(self.shard_sizes))
        # lru_cache is safe in threads and holds no lock that a fork could copy while it is held
        self._indices = lru_cache(INDEXED_SHARDS)(self._load_index)
        self._locks: defaultdict[int, Lock] = defaultdict(Lock)  # of a bucket's indices
        self._open = lru_cache(OPEN_SHARDS)(self._open_shard)

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardSetReader, (self.store, self.info, self._config)

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return self._ends[-1] if self._ends else 0

    @property
    def is_remote(self) -> bool:
        """Whether shards are read through the cache."""
        return self._cache is not None

    def check_cache(self, count: int) -> None:
        """Raise `InputError` if the cache cannot hold that many shards at once."""
        if self._cache is not None:
            self._cache.check_fits(self.info.shards, count)

    def ahead(self, numbers: Sequence[int]) -> None:
        """Start to fetch the shards that are read next, in this order, if they are remote."""
        if self._cache is not None:
            shards = self.info.shards
            self._cache.ahead({shards[number]: partial(self._index, number) for number in numbers})

    def labels(self) -> NDArray[np.int64]:
        """The labels of all samples, int64 [num_samples]; -1 if there is none."""
        parts = [_labels(read_manifest(self.store, s.name, ["label"])) for s in self.info.shards]
        labels = np.concatenate([np.zeros(0, np.int64), *parts])
        if len(labels) != self.num_samples:
            raise InputError(
                f"{self.store.url}: the manifests have {len(labels)} rows, dataset.json "
                f"{self.num_samples} ({AGAIN})"
            )
        return labels

    def read(self, sample_id: int) -> StoredSample:
        """Read a sample.

        Raises:
            IndexError: no such sample.
            DamagedSample: its bytes cannot be read; names the shard and the key.
        """
        number, row = self._locate(sample_id)
        index = self._index(number)
        image_at, image_length, saliency_at, saliency_length = index.spans[row].tolist()
        # the image's tar header is read too: it tells whether these are the sample's bytes
        start = image_at - tarfile.BLOCKSIZE
        data = memoryview(self._pread(number, row, start, saliency_at + saliency_length - start))
        key = index.keys[row]
        member = f"{key}.{index.extensions[row]}".encode()
        if data[: len(member) + 1] != member + b"\0":
            raise self._damaged(number, row, "other bytes than the manifest says")
        return StoredSample(
            key=key,
            shard=self.info.shards[number].name,
            image=data[tarfile.BLOCKSIZE : tarfile.BLOCKSIZE + image_length],
            saliency=data[saliency_at - start :],
            label=int(index.labels[row]),
        )

    def read_pixels(self, sample_id: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read a sample's image, uint8 [H, W, C] (RGB of three), and its saliency, uint8 [S, S].

        Raises as `read` does, also for what cannot be decoded.
        """
        sample, place = self.read(sample_id), self._locate(sample_id)
        return self._image(*place, sample.image), self._map(*place, sample.saliency)

    def read_reduced(self, sample_id: int, by: int) -> tuple[Picture, NDArray[np.uint8]]:
        """`read_pixels`, but the image of `decode_reduced` where it gives one; 1: the whole one."""
        sample, (number, row) = self.read(sample_id), self._locate(sample_id)
        image: Picture | None = None
        if by > 1 and self._index(number).extensions[row] == "jpg":
            try:
                image = decode_reduced(sample.image, by, self.size(sample_id))
            except ImageError as error:
                raise self._damaged(number, row, str(error)) from error
        if image is None:
            image = self._image(number, row, sample.image)
        return image, self._map(number, row, sample.saliency)

    def size(self, sample_id: int) -> tuple[int, int]:
        """Height and width of a sample's image, as the manifest says."""
        number, row = self._locate(sample_id)
        height, width = self._index(number).sizes[row].tolist()
        return height, width

    def read_image(self, sample_id: int) -> NDArray[np.uint8]:
        """Read a sample's image only; raises as `read_pixels` does."""
        return self._image(*self._locate(sample_id), self.read(sample_id).image)

    def read_map(self, sample_id: int) -> NDArray[np.uint8]:
        """Read the saliency map of a sample only; raises as `read_pixels` does."""
        number, row = self._locate(sample_id)
        _, _, saliency_at, saliency_length = self._index(number).spans[row].tolist()
        return self._map(number, row, self._pread(number, row, saliency_at, saliency_length))

    def key(self, sample_id: int) -> str:
        """The key of a sample: its name without endings in the tar."""
        number, row = self._locate(sample_id)
        return self._index(number).keys[row]

    def _image(self, number: int, row: int, data: memoryview) -> NDArray[np.uint8]:
        try:
            return decode_stored(data, self.info.pixels.channels)
        except ImageError as error:
            raise self._damaged(number, row, str(error)) from error

    def _map(self, number: int, row: int, data: bytes | memoryview) -> NDArray[np.uint8]:
        try:
            return decode_saliency(data)
        except ImageError as error:
            raise self._damaged(number, row, f"its saliency map: {error}") from error

    def _locate(self, sample_id: int) -> tuple[int, int]:
        """Number of the sample's shard, and its row there."""
        if not 0 <= sample_id < self.num_samples:
            raise IndexError(f"no sample {sample_id} among {self.num_samples}")
        number = bisect_right(self._ends, sample_id)
        return number, sample_id - self._ends[number] + self.shard_sizes[number]

    def _pread(self, number: int, row: int, offset: int, length: int) -> bytes:
        try:
            file = self._open(number)  # held while it is read: eviction must not close it
            # A manifest's numbers may be anything: what they ask for is not allocated.
            there = min(offset + length, file.num_bytes) - offset
            data = os.pread(file.descriptor, there, offset) if offset >= 0 and there > 0 else b""
        except OSError as error:
            raise self._damaged(number, row, error.strerror or str(error)) from error
        if len(data) != length:
            raise self._damaged(number, row, f"{len(data)} of {length} bytes are there")
        return data

    def _damaged(self, number: int, row: int, what: str) -> DamagedSample:
        where = self.store.where(shard_file(self.info.shards[number].name))
        key = self._index(number).keys[row]
        return DamagedSample(
            f"sample {key} in {where} is damaged ({what}): {AGAIN}, with the same options, to mend "
            "the shard; a training with --on-damaged skip goes on without the sample"
        )

    def _open_shard(self, number: int) -> _OpenFile:
        shard = self.info.shards[number]
        if self._cache is not None:
            return _OpenFile(self._cache.open(shard))
        assert isinstance(self.store, LocalStore)
        path = self.store.path(shard_file(shard.name))
        return _OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def _index(self, number: int) -> _ShardIndex:
        if self._cache is None:
            return self._indices(number)
        with self._locks[number]:  # a thread that fetches ahead may be loading it
            return self._indices(number)

    def _load_index(self, number: int) -> _ShardIndex:
        shard = self.info.shards[number]
        table = read_manifest(self.store, shard.name, ["key", "image_ext", "label", *SPANS, *SIZE])
        if table.num_rows != shard.num_images:
            raise InputError(
                f"the manifest of {shard.name} has {table.num_rows} rows, dataset.json says "
                f"{shard.num_images} ({AGAIN})"
            )
        return _ShardIndex(
            keys=table["key"].to_pylist(),
            extensions=table["image_ext"].to_pylist(),
            spans=_numbers(table, SPANS),
            sizes=_numbers(table, SIZE),
            labels=_labels(table),
        )


def _numbers(table: Any, names: Sequence[str]) -> NDArray[np.int64]:  # noqa: ANN401
    # Not `to_numpy`, for which Arrow imports pandas.
    return np.array([table[name].to_pylist() for name in names], dtype=np.int64).T.copy()


def _labels(table: Any) -> NDArray[np.int64]:  # noqa: ANN401  (pyarrow has no types)
    labels = table["label"].to_pylist()
    return np.array([-1 if label is None else label for label in labels], dtype=np.int64)
