"""What an evaluation writes: `results.jsonl`, a line for each figure, and every prediction.

Shapes: V validation images, D draws of the training labels.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.backbone.card import Figure
from pipeline.core.errors import InputError, first_ten, write_error
from pipeline.shardset.manifest import RECORD_KEY
from pipeline.storage.atomic import atomic_file
from training.evaluate.config import RESULTS_FILE

COLUMNS = {
    "draw": pa.int64(),
    "image": pa.string(),
    "sha256": pa.string(),
    "label": pa.int64(),
    "predicted": pa.int64(),
    "right": pa.bool_(),
}
"""Of a file of predictions, one row per draw of training labels (from 0 on) and image.

image is the file's name relative to the data's root, sha256 that of its bytes; label and predicted
are indices of the class names in the file's metadata, where the fields of the result are too.
"""
WIDEST = 6
"""Figures that stand beside each other in a table."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One figure of one checkpoint on images of `train`, to learn from, and of `val`.

    Attributes:
        checkpoint: as it was named.
        encoder: query, momentum, untrained or supervised.
        checkpoint_digest: sha256 of the weights, or `random:SEED,SEED,...`.
        variant: of the protocol, such as a share of the labels; empty: it has none.
        name: what the figure is: top1, an average precision's or a diagnostic's name.
        figure: its value; of accuracies and precisions in percent.
        interval: of the figure, 95 %; None where there is none.
        settings: whatever else the figure depends on; JSON values.
        more: other figures of the same predictions, such as mean_per_class.
    """

    checkpoint: str
    encoder: str
    architecture: str
    checkpoint_digest: str
    train: str
    val: str
    train_digest: str
    val_digest: str
    protocol: str
    variant: str = ""
    seed: int
    name: str
    figure: float
    interval: tuple[float, float] | None = None
    num_train: int
    num_val: int
    settings: dict[str, Any] = field(default_factory=dict)
    more: dict[str, float] = field(default_factory=dict)

    @property
    def column(self) -> str:
        """What the figure is called in a table."""
        return f"{self.protocol if self.name == 'top1' else self.name} {self.variant}".strip()

    @property
    def row(self) -> str:
        """What the checkpoint is called in a table."""
        return self.checkpoint if self.encoder != "momentum" else f"{self.checkpoint} (momentum)"


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a protocol predicted for some images, and their figure.

    The names of the image files are relative to the data's root, sha256 is that of their bytes.
    Labels and predictions are indices of the class names.
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


def append_results(folder: Path, results: Iterable[Result]) -> None:
    """Append one line of JSON per result to the folder's `RESULTS_FILE`.

    Raises:
        InputError: the file cannot be written.
    """
    path = folder / RESULTS_FILE
    lines = "".join(json.dumps(asdict(result)) + "\n" for result in results)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(lines)
    except OSError as error:
        raise write_error(str(path), error) from error


def read_results(folder: Path) -> list[Result]:
    """Read a folder's results.

    Raises:
        InputError: there are none, or a line is no result; names the line.
    """
    path = folder / RESULTS_FILE
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"no results at {path}: {error}") from error
    results = []
    for number, line in enumerate(lines, start=1):
        try:
            results.append(_result(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"line {number} of {path} is no result: {error}") from error
    return results


def _result(fields: dict[str, Any]) -> Result:
    interval = fields.pop("interval")
    return Result(interval=None if interval is None else tuple(interval), **fields)


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
    fields = [pa.field(name, kind, nullable=False) for name, kind in COLUMNS.items()]
    schema = pa.schema(fields, {RECORD_KEY: json.dumps(record).encode()})
    same = (result.row, result.checkpoint_digest, result.column, result.val_digest)
    digest = hashlib.sha256("\0".join(same).encode("utf-8", "surrogateescape")).hexdigest()
    words = re.sub(r"[^A-Za-z0-9]+", "-", f"{Path(result.checkpoint).name} {result.column}")
    path = folder / f"{words.strip('-')}-{digest[:8]}.parquet"
    try:
        with atomic_file(path) as file:
            pq.write_table(pa.table(columns, schema=schema), file)
    except OSError as error:
        raise write_error(str(path), error) from error
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
            f"--results {folder} and a protocol that predicts, such as knn (uncertainty does not)"
        )
    return [_read(file) for file in files]


def _read(file: Path) -> Predictions:
    try:
        table = pq.read_table(file)
        if RECORD_KEY not in (table.schema.metadata or {}):
            raise ValueError(f"its columns are {first_ten(table.schema.names)}")
        record = json.loads(table.schema.metadata[RECORD_KEY])
        table = table.sort_by([(name, "ascending") for name in ("draw", "sha256", "image")])
        draws = len(table["draw"].unique())
        first = table.slice(0, table.num_rows // draws)
        return Predictions(
            result=_result(record["result"]),
            names_V=np.array(first["image"].to_pylist()),
            sha256_V=np.array(first["sha256"].to_pylist()),
            labels_V=first["label"].to_numpy(),
            class_names=tuple(record["class_names"]),
            predicted_DV=table["predicted"].to_numpy().reshape(draws, -1),
        )
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise InputError(f"{file} holds no predictions that can be read: {error}") from error


def figures_of(results: Sequence[Result], checkpoint_digest: str) -> list[Figure]:
    """A checkpoint's accuracies and precisions, for its model card; of a repeated one the last."""
    found = {
        (one.column, one.val_digest): Figure(
            one.column, Path(one.val).name, one.figure, one.interval
        )
        for one in results
        if one.checkpoint_digest == checkpoint_digest
        and one.interval is not None
        and (one.name == "top1" or one.protocol == "detection")
    }
    return list(found.values())


def table(results: Sequence[Result]) -> str:
    """Checkpoints by figures with their intervals; of more than `WIDEST` figures turned round."""
    columns = list(dict.fromkeys(result.column for result in results))
    cells: dict[str, dict[str, str]] = {}
    for result in results:
        cells.setdefault(result.row, {})[result.column] = _cell(result)
    lines = [["", *columns]]
    lines += [[row, *(some.get(column, "") for column in columns)] for row, some in cells.items()]
    if len(columns) > WIDEST:
        lines = [list(line) for line in zip(*lines, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    layout = "  ".join(f"{{:{'>' if n else '<'}{width}}}" for n, width in enumerate(widths))
    return "\n".join(layout.format(*line).rstrip() for line in lines)


def _cell(result: Result) -> str:
    if result.interval is None:
        return f"{result.figure:.4g}"
    low, high = result.interval
    if result.protocol in ("diagnostics", "uncertainty"):  # no percentages: any scale
        return f"{result.figure:.4g} ({low:.3g} to {high:.3g})"
    return f"{result.figure:.2f} ({low:.1f} to {high:.1f})"
