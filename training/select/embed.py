"""Features of all images of a source or a set; which are nearly the same, and which spread out.

Shapes: M images, D features, R rows of a block.
"""

import csv
import io
import json
from dataclasses import asdict
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.core.errors import ImageError, check, write_error
from pipeline.core.progress import WARNING, numbered, say, track
from pipeline.shardset.manifest import RECORD_KEY
from pipeline.sources.pictures import Pictures, open_pictures
from pipeline.storage.atomic import write_atomically
from training.core.context import LocalContext
from training.evaluate.encoders import NamedEncoder, load_encoders
from training.evaluate.features import FeatureExtractor, View, loaded_batches
from training.select.embed_config import EmbedConfig
from training.select.greedy import farthest_points

NUM_SHOWN = 10
"""Pairs of near-duplicates that are shown; the file has all."""
BLOCK_ROWS = 1024
"""Rows that are compared with all others at once: 40 MB for 10,000 images."""


def open_encoder(checkpoint: str, encoder: Any = "query") -> NamedEncoder:  # noqa: ANN401
    """A run's, a checkpoint's or an export's encoder on this machine's device; or InputError."""
    device = LocalContext().device
    return load_encoders([checkpoint], encoder=encoder, seed=0, device=device)[0]


def embed(
    encoder: FeatureExtractor, pictures: Pictures
) -> tuple[Tensor, list[str], list[str | None]]:
    """Features of the test-time views, float32 [M, D], not normalised, with names and labels.

    A source image that cannot be decoded is named in a warning and left out.

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

    items = enumerate(pictures.items)
    batches = iter(lambda: list(islice(items, encoder.batch_size)), [])
    loaded = loaded_batches(batches, load, num_threads=encoder.num_threads)
    total = len(pictures.names)
    shown = track(loaded, "embedding", total, "images", size=lambda batch: len(batch[1]))
    features_MD, numbers_M = encoder.extract(shown)  # of the images, in the place of labels
    kept = numbers_M.tolist()
    return features_MD, [pictures.names[n] for n in kept], [pictures.labels[n] for n in kept]


def near_duplicates(unit_MD: Tensor, least: float) -> list[tuple[int, int, float]]:
    """Pairs of images, first < second, whose features have at least that cosine, the nearest first.

    All pairs are compared, in blocks of rows; pairs of equal cosine stand by number.
    """
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(unit_MD), BLOCK_ROWS):
        cosines_RM = unit_MD[start : start + BLOCK_ROWS] @ unit_MD[start:].T
        found = torch.nonzero(torch.triu(cosines_RM, 1) >= least)
        first, second = (found + start).unbind(dim=1)
        values = cosines_RM[*found.unbind(dim=1)]
        pairs += zip(first.tolist(), second.tolist(), values.tolist(), strict=True)
    return sorted(pairs, key=lambda pair: (-pair[2], *pair[:2]))


def embed_into_file(config: EmbedConfig) -> tuple[dict[str, Any], list[str]]:
    """Write the features, and the lists that are asked for; the paths are absolute.

    Returns:
        The results for programs, and lines for people.

    Raises:
        InputError: no images or no backbone; more images to choose than there are; a file cannot
            be written.
    """
    encoder = open_encoder(str(config.checkpoint), config.encoder)
    columns = {"image_column": config.image_column, "label_column": config.label_column}
    pictures = open_pictures(config.data, encoder.info.pixels, **columns)
    say(f"embedding {numbered(len(pictures.names), 'image')} of {config.data} by {encoder.name}")
    features_MD, names, labels = embed(encoder, pictures)
    (count, dim), unit_MD = features_MD.shape, torch.nn.functional.normalize(features_MD, dim=1)
    values: dict[str, Any] = {"out": config.out, "images": count, "features": dim}
    lines, about = list[str](), asdict(encoder.info.preprocessing)
    flat = pa.array(features_MD.numpy().astype(config.dtype).reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, dim)
    table = pa.table({"name": names, "label": pa.array(labels, pa.string()), "vector": vectors})
    record = json.dumps({"weights_sha256": encoder.digest, "preprocessing": about})
    parquet, files = io.BytesIO(), dict[str, bytes]()
    pq.write_table(table.replace_schema_metadata({RECORD_KEY: record}), parquet)
    if config.duplicates is not None:
        pairs = near_duplicates(unit_MD, config.duplicates)
        rows, text = [(f"{c:.6f}", names[i], names[j]) for i, j, c in pairs], io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("cosine", "first", "second"), *rows])
        files[".duplicates.csv"], values["duplicates"] = text.getvalue().encode(), len(pairs)
        lines += ["  ".join(row) for row in rows[:NUM_SHOWN]]
        lines.append(f"{numbered(len(pairs), 'pair')} of cosine {config.duplicates:g} or more")
    if config.diverse is not None:
        few = f"--diverse {config.diverse}: there are {numbered(count, 'image')}"
        check(config.diverse <= count, few)
        chosen = farthest_points(unit_MD.numpy(), config.diverse).tolist()
        files[".diverse.txt"] = "".join(f"{names[number]}\n" for number in chosen).encode()
    for suffix, data in {**files, config.out.suffix: parquet.getvalue()}.items():
        path = config.out.with_suffix(suffix)
        try:
            write_atomically(path, data)
        except OSError as error:
            raise write_error(str(path), error) from error
        lines += [f"{suffix.split('.')[1]:10} {path}"] if suffix in files else []
    return values, [*lines, f"results    {numbered(count, 'image')}, {dim} features: {config.out}"]
