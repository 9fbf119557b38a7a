"""Predictions of single images, one parquet file per checkpoint, protocol and variant.

Shapes: V validation images, D draws of the training labels.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import RECORD_KEY
from pipeline.storage.atomic import atomic_file
from training.evaluate.config import RESULTS_FILE
from training.evaluate.results import Result, result_of

SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("draw", pa.int64()),
            ("image", pa.string()),
            ("sha256", pa.string()),
            ("label", pa.int64()),
            ("predicted", pa.int64()),
            ("right", pa.bool_()),
        )
    ]
)
"""One row per draw and image.

draw counts the draws of training labels from 0 on; image is the file's name relative to the data's
root; sha256 is that of the source's bytes; label and predicted are indices of the class names in
the file's metadata, where the result's fields are too.
"""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a protocol predicted for some images.

    Attributes:
        result: their figure, with checkpoint, protocol, variant, seed and digests.
        names_V: of the image files, relative to the data's root.
        sha256_V: of the files' bytes.
        labels_V: int64.
        class_names: that labels are indices of.
        predicted_DV: classes, int64.
    """

    result: Result
    names_V: NDArray[np.str_]
    sha256_V: NDArray[np.str_]
    labels_V: NDArray[np.int64]
    class_names: tuple[str, ...]
    predicted_DV: NDArray[np.int64]

    @property
    def right_DV(self) -> NDArray[np.bool_]:
        """Whether each prediction is right."""
        right: NDArray[np.bool_] = self.predicted_DV == self.labels_V
        return right


def write_predictions(folder: Path, predictions: Predictions) -> Path:
    """Write a file; it replaces an earlier one of the same weights, protocol and images.

    Raises:
        InputError: the file cannot be written.
    """
    result = predictions.result
    draws, size = predictions.predicted_DV.shape
    columns = {
        "draw": np.repeat(np.arange(draws), size),
        "image": np.tile(predictions.names_V, draws),
        "sha256": np.tile(predictions.sha256_V, draws),
        "label": np.tile(predictions.labels_V, draws),
        "predicted": predictions.predicted_DV.reshape(-1),
        "right": predictions.right_DV.reshape(-1),
    }
    record = {"result": asdict(result), "class_names": predictions.class_names}
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
        table = table.sort_by([(name, "ascending") for name in ("draw", "sha256", "image")])
        draws = len(table["draw"].unique())
        first = table.slice(0, table.num_rows // draws)
        return Predictions(
            result=result_of(record["result"]),
            names_V=np.array(first["image"].to_pylist()),
            sha256_V=np.array(first["sha256"].to_pylist()),
            labels_V=first["label"].to_numpy(),
            class_names=tuple(record["class_names"]),
            predicted_DV=table["predicted"].to_numpy().reshape(draws, -1),
        )
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise InputError(f"{file} holds no predictions that can be read: {error}") from error
