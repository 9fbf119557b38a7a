"""Results as JSON lines in a folder's file that only grows, and as a table of checkpoints."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.backbone.card import Figure
from pipeline.core.errors import InputError
from training.evaluate.config import RESULTS_FILE

WIDEST = 6
"""Figures that stand beside each other in a table."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One figure of one checkpoint.

    Attributes:
        checkpoint: as it was named.
        encoder: query, momentum, untrained or supervised.
        architecture: of the network.
        checkpoint_digest: sha256 of the weights, or `random:SEED,SEED,...`.
        train: where the training images lie.
        val: where the validation images lie.
        train_digest: of the training images.
        val_digest: of the validation images.
        protocol: that gave the figure.
        variant: of the protocol, such as a share of the labels; empty: it has none.
        seed: of all that was drawn.
        name: what the figure is: top1, an average precision's or a diagnostic's name.
        figure: its value; of accuracies and precisions in percent.
        interval: of the figure, 95 %; None where there is none.
        num_train: images.
        num_val: images.
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
    interval: tuple[float, float] | None
    num_train: int
    num_val: int
    settings: dict[str, Any] = field(default_factory=dict)
    more: dict[str, float] = field(default_factory=dict)

    @property
    def column(self) -> str:
        """What the figure is called in a table."""
        parts = (self.protocol if self.name == "top1" else self.name, self.variant)
        return " ".join(part for part in parts if part)

    @property
    def row(self) -> str:
        """What the checkpoint is called in a table."""
        return self.checkpoint if self.encoder != "momentum" else f"{self.checkpoint} (momentum)"


def append_results(folder: Path, results: Iterable[Result]) -> None:
    """Append one line of JSON per result to the folder's `RESULTS_FILE`.

    Raises:
        InputError: the file cannot be written.
    """
    path = folder / RESULTS_FILE
    lines = "".join(json.dumps(asdict(result)) + "\n" for result in results)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(lines)
    except OSError as error:
        raise InputError(f"the results cannot be written to {path}: {error}") from error


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
            results.append(result_of(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"line {number} of {path} is no result: {error}") from error
    return results


def result_of(fields: dict[str, Any]) -> Result:
    """The result of its JSON values; raises KeyError or TypeError where they are none."""
    interval = fields.pop("interval")
    return Result(interval=None if interval is None else tuple(interval), **fields)


def figures_of(results: Sequence[Result], checkpoint_digest: str) -> list[Figure]:
    """A checkpoint's accuracies and precisions, for its model card; of a repeated one the last."""
    found = {
        (result.column, result.val_digest): Figure(
            protocol=result.column,
            data=Path(result.val).name,
            percent=result.figure,
            interval=result.interval,
        )
        for result in results
        if result.checkpoint_digest == checkpoint_digest
        and result.interval is not None
        and (result.name == "top1" or result.protocol == "detection")
    }
    return list(found.values())


def table(results: Sequence[Result]) -> str:
    """Checkpoints by figures; accuracies with their intervals.

    One row per checkpoint; where there are more figures than fit beside each other, one row per
    figure.
    """
    rows = list(dict.fromkeys(result.row for result in results))
    columns = list(dict.fromkeys(result.column for result in results))
    cells = {(result.row, result.column): _cell(result) for result in results}
    lines = [["", *columns]]
    lines += [[row, *(cells.get((row, column), "") for column in columns)] for row in rows]
    if len(columns) > WIDEST:
        lines = [list(line) for line in zip(*lines, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in lines
    )


def _cell(result: Result) -> str:
    if result.interval is None:
        return f"{result.figure:.4g}"
    low, high = result.interval
    if result.protocol == "diagnostics":  # no percentages: any scale
        return f"{result.figure:.4g} ({low:.3g} to {high:.3g})"
    return f"{result.figure:.2f} ({low:.1f} to {high:.1f})"
