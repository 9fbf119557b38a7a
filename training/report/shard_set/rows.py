"""What the manifests say of all images of a set, as arrays; one shard's manifest at a time."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo, read_manifest, read_rejected

NUMBERS = {
    "width": np.int32,
    "height": np.int32,
    "image_length": np.int64,
    "saliency_mean": np.float32,
    "saliency_std": np.float32,
    "foreground_share": np.float32,
}
MOST_NAMES = 200
"""Names that are listed of rejected images, and groups of copies."""


@dataclass(frozen=True)
class Rows:
    """Columns of the manifests, in the order that numbers the samples.

    Attributes:
        numbers: columns by name, each [num_images].
        labels: int64 [num_images], -1 where there is none.
        copies: groups of sample numbers whose source files have the same bytes.
    """

    numbers: dict[str, NDArray[np.generic]]
    labels: NDArray[np.int64]
    copies: list[list[int]]

    def column(self, name: str) -> NDArray[np.float64]:
        """A column as float64."""
        return self.numbers[name].astype(np.float64)


def read_rows(folder: Path, info: DatasetInfo) -> Rows:
    """Read the manifests; a few tens of bytes an image are kept.

    Raises:
        InputError: a manifest is missing or damaged.
    """
    parts: dict[str, list[NDArray[np.generic]]] = {name: [] for name in NUMBERS}
    labels: list[NDArray[np.int64]] = []
    hashes: list[NDArray[np.uint64]] = []
    for shard in info.shards:
        table = read_manifest(folder, shard.name, [*NUMBERS, "label", "sha256"])
        if table.num_rows != shard.num_images:
            raise InputError(
                f"the manifest of {shard.name} in {folder} has {table.num_rows} rows, "
                f"dataset.json says {shard.num_images}: run jobs/precompute.py again"
            )
        for name, dtype in NUMBERS.items():
            parts[name].append(table[name].to_numpy().astype(dtype))
        labels.append(table["label"].fill_null(-1).to_numpy().astype(np.int64))
        digests = table["sha256"].to_pylist()
        hashes.append(np.array([int(text[:16], 16) for text in digests], dtype=np.uint64))
    none = np.zeros(0)
    return Rows(
        numbers={name: np.concatenate([none, *found]) for name, found in parts.items()},
        labels=np.concatenate([none.astype(np.int64), *labels]),
        copies=_equal(np.concatenate([none.astype(np.uint64), *hashes])),
    )


def _equal(hashes: NDArray[np.uint64]) -> list[list[int]]:
    """Groups of places with the same hash: 64 bits of sha256, which do not meet by chance."""
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(hashes[order][1:] != hashes[order][:-1]) + 1
    groups = np.split(order, starts)
    return sorted(sorted(map(int, group)) for group in groups if len(group) > 1)


def read_sources(folder: Path, info: DatasetInfo, numbers: set[int]) -> dict[int, str]:
    """Names of some samples' source files."""
    found: dict[int, str] = {}
    first = 0
    for shard in info.shards:
        here = [number for number in numbers if first <= number < first + shard.num_images]
        if here:
            sources = read_manifest(folder, shard.name, ["source"])["source"]
            found |= {number: sources[number - first].as_py() for number in here}
        first += shard.num_images
    return found


@dataclass(frozen=True)
class Rejected:
    """Images that could not be used.

    Attributes:
        reasons: how many of each.
        names: the first ones, each with its reason.
        unread: why a list could not be read; empty: all were.
    """

    reasons: Counter[str]
    names: list[tuple[str, str]]
    unread: str


def rejected_images(folder: Path, info: DatasetInfo) -> Rejected:
    """Read the lists of rejected images."""
    rejected = Rejected(Counter(), [], "")
    if not info.num_rejected:
        return rejected
    for shard in info.shards:
        try:
            rows = read_rejected(folder, shard.name).to_pylist()
        except InputError as error:
            return Rejected(rejected.reasons, rejected.names, str(error))
        rejected.reasons.update(row["reason"] for row in rows)
        more = [(row["source"], row["reason"]) for row in rows]
        rejected.names.extend(more[: MOST_NAMES - len(rejected.names)])
    return rejected
