"""Predictions of single images, one parquet file per checkpoint, protocol and variant.

Shapes: V validation images, D draws of the training labels.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import RECORD_KEY, load_dataset_info, read_manifest
from pipeline.storage.atomic import atomic_file
from training.evaluate.folders import FolderImages
from training.evaluate.labelled import LabelledImages
from training.evaluate.results import RESULTS_FILE, Result, check_folder, result_of

SCHEMA = pa.schema(
    [
        pa.field("draw", pa.int64(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("predicted", pa.int64(), nullable=False),
        pa.field("right", pa.bool_(), nullable=False),
    ]
)
"""One row per draw and image.

draw counts the draws of training labels from 0 on; image is the file's name relative to the data's
root; sha256 is that of the source's bytes; label and predicted are indices of the class names in
the file's metadata, where the result's fields are too.
"""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """The images that were classified.

    Attributes:
        names: of the files, relative to the data's root.
        sha256: of the files' bytes.
        labels_V: int64.
        class_names: that labels are indices of.
    """

    names: tuple[str, ...]
    sha256: tuple[str, ...]
    labels_V: NDArray[np.int64]
    class_names: tuple[str, ...]

    def chosen(self, numbers: NDArray[np.int64]) -> "ImageSet":
        """Some of the images, by their numbers."""
        return replace(
            self,
            names=tuple(self.names[number] for number in numbers),
            sha256=tuple(self.sha256[number] for number in numbers),
            labels_V=self.labels_V[numbers],
        )


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a protocol predicted.

    Attributes:
        result: their figure, with checkpoint, protocol, variant, seed and digests.
        images: V.
        predicted_DV: classes, int64.
    """

    result: Result
    images: ImageSet
    predicted_DV: NDArray[np.int64]

    @cached_property
    def right_DV(self) -> NDArray[np.bool_]:
        """Whether each prediction is right."""
        right: NDArray[np.bool_] = self.predicted_DV == self.images.labels_V
        return right


def image_set(images: LabelledImages) -> ImageSet:
    """Names and digests: from the manifests of shards, or from reading every file of a folder."""
    names: list[str] = []
    digests: list[str] = []
    if isinstance(images, FolderImages):
        names += images.names
        for name in images.names:
            with (images.root / name).open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    else:
        for shard in load_dataset_info(images.root).shards:
            rows = read_manifest(images.root, shard.name, ["source", "sha256"])
            names += rows["source"].to_pylist()
            digests += rows["sha256"].to_pylist()
    # File names on Linux are bytes and need not be valid UTF-8; parquet's strings must be.
    readable = (os.fsencode(name).decode("utf-8", "replace") for name in names)
    return ImageSet(
        names=tuple(readable),
        sha256=tuple(digests),
        labels_V=images.labels(),
        class_names=images.class_names,
    )


def write_predictions(folder: Path, predictions: Predictions) -> Path:
    """Write a file; it replaces an earlier one of the same weights, protocol and images.

    Raises:
        InputError: the file cannot be written.
    """
    result, images = predictions.result, predictions.images
    draws, size = predictions.predicted_DV.shape
    columns = {
        "draw": np.repeat(np.arange(draws), size),
        "image": images.names * draws,
        "sha256": images.sha256 * draws,
        "label": np.tile(images.labels_V, draws),
        "predicted": predictions.predicted_DV.reshape(-1),
        "right": predictions.right_DV.reshape(-1),
    }
    record = {"result": asdict(result), "class_names": images.class_names}
    schema = SCHEMA.with_metadata({RECORD_KEY: json.dumps(record).encode()})
    same = (result.row, result.checkpoint_digest, result.column, result.val_digest)
    digest = hashlib.sha256("\0".join(same).encode("utf-8", "surrogateescape")).hexdigest()
    words = f"{Path(result.checkpoint).name} {result.column}"
    path = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', words).strip('-')}-{digest[:8]}.parquet"
    try:
        with atomic_file(path) as file:
            pq.write_table(pa.table(columns, schema=schema), file)
    except OSError as error:
        raise InputError(f"the predictions cannot be written to {path}: {error}") from error
    return path


def read_predictions(folder: Path) -> list[Predictions]:
    """Read all files of a folder, the images of each in the order of digests and names.

    Raises:
        InputError: no folder, none with predictions, or a file that cannot be read.
    """
    check_folder(folder)
    if not folder.is_dir():
        raise InputError(f"no evaluation at {folder}: no such folder (jobs/evaluate.py --results)")
    files = sorted(folder.glob("*.parquet"))
    if not files:
        old = f", only {RESULTS_FILE}" if (folder / RESULTS_FILE).exists() else ""
        raise InputError(
            f"{folder} holds no predictions of images{old}: run jobs/evaluate.py again with "
            f"--results {folder}"
        )
    return [_read(file) for file in files]


def _read(file: Path) -> Predictions:
    try:
        table = pq.read_table(file)
        record = json.loads(table.schema.metadata[RECORD_KEY])
        result, names = result_of(record["result"]), tuple(record["class_names"])
        table = table.sort_by([(name, "ascending") for name in ("draw", "sha256", "image")])
        draws = len(table["draw"].unique())
        first = table.slice(0, table.num_rows // draws)
        return Predictions(
            result=result,
            images=ImageSet(
                names=tuple(first["image"].to_pylist()),
                sha256=tuple(first["sha256"].to_pylist()),
                labels_V=first["label"].to_numpy(),
                class_names=names,
            ),
            predicted_DV=table["predicted"].to_numpy().reshape(draws, -1),
        )
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise InputError(f"{file} holds no predictions that can be read: {error}") from error
