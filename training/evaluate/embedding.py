"""Features of all images of a source or a shard set, and which of them are nearly the same.

Shapes: M images, D features, R rows of a block.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import ImageError, write_error
from pipeline.core.progress import WARNING, say, track
from pipeline.shardset.manifest import RECORD_KEY
from pipeline.shardset.pictures import Pictures
from pipeline.storage.atomic import atomic_file
from training.evaluate.features import FeatureExtractor, View, loaded_batches

BLOCK_ROWS = 1024
"""Rows that are compared with all others at once: 40 MB for 10,000 images."""


class Embedding(NamedTuple):
    """Names and labels of images, and their features, float32 [M, D], not normalised."""

    names: list[str]
    labels: list[str | None]
    vectors_MD: NDArray[np.float32]

    @property
    def unit_MD(self) -> Tensor:
        """The features at length 1; zeros stay zeros."""
        return torch.nn.functional.normalize(torch.from_numpy(self.vectors_MD), dim=1)


def embed(encoder: FeatureExtractor, pictures: Pictures) -> Embedding:
    """The features of the test-time views of all pictures that can be decoded.

    An image that cannot is named in a warning and left out.

    Raises:
        InputError: no image can be decoded, or features that are not finite.
        DamagedSample: a sample of a shard set.
    """

    def load(item: tuple[int, Any]) -> View | None:
        number, picture = item
        try:
            return encoder.view(pictures.pixels(picture)), number
        except ImageError as error:
            say(f"{WARNING}{pictures.names[number]} is left out: {error}")
            return None

    batches = _parts(enumerate(pictures.items()), encoder.batch_size)
    loaded = loaded_batches(batches, load, num_threads=encoder.num_threads)
    shown = track(
        loaded, "embedding", len(pictures.names), "images", size=lambda batch: len(batch[1])
    )
    # The numbers of the images take the place of labels.
    features_MD, numbers_M = encoder.extract(shown)
    kept = numbers_M.tolist()
    return Embedding(
        [pictures.names[number] for number in kept],
        [pictures.labels[number] for number in kept],
        features_MD.numpy(),
    )


def _parts(items: Iterator[Any], size: int) -> Iterator[Sequence[Any]]:
    while some := list(islice(items, size)):
        yield some


def write_embedding(
    file: Path, found: Embedding, about: dict[str, Any], dtype: str = "float32"
) -> None:
    """Write a parquet file of the columns name, label and vector (lists of one length).

    `about`, JSON values, is in the file's metadata; `dtype` is float16 or float32. InputError: the
    file cannot be written.
    """
    flat = pa.array(found.vectors_MD.astype(dtype).reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, found.vectors_MD.shape[1])
    columns = {
        "name": pa.array(found.names, pa.string()),
        "label": pa.array(found.labels, pa.string()),
    }
    table = pa.table(columns | {"vector": vectors})
    try:
        with atomic_file(file) as open_file:
            pq.write_table(
                table.replace_schema_metadata({RECORD_KEY: json.dumps(about)}), open_file
            )
    except OSError as error:
        raise write_error(str(file), error) from error


def near_duplicates(unit_MD: Tensor, least: float) -> list[tuple[int, int, float]]:
    """Pairs of images, first < second, whose features have at least that cosine, the nearest first.

    All pairs are compared, in blocks of rows; pairs of equal cosine stand by number.
    """
    pairs: list[tuple[int, int, float]] = []
    for first in range(0, len(unit_MD), BLOCK_ROWS):
        cosines_RM = unit_MD[first : first + BLOCK_ROWS] @ unit_MD[first:].T
        rows, columns = torch.nonzero(torch.triu(cosines_RM, 1) >= least, as_tuple=True)
        values = cosines_RM[rows, columns].tolist()
        pairs += zip((rows + first).tolist(), (columns + first).tolist(), values, strict=True)
    return sorted(pairs, key=lambda pair: (-pair[2], *pair[:2]))
