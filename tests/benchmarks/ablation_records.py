"""What the ablation's finished runs say: a line each, a table, a plot."""

import json
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

RECORDS_FILE = "records.jsonl"
PLOT_FILE = "ablation.png"

Record = dict[str, Any]


def append_record(out: Path, record: dict[str, object]) -> None:
    """Adds a finished run; one write, flushed, so that processes do not mix their lines."""
    path = out / RECORDS_FILE
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("ab", buffering=0) as file:
        file.write(b"\n" * torn + json.dumps(record).encode() + b"\n")
        os.fsync(file.fileno())


def read_records(out: Path) -> list[Record]:
    """The finished runs; of a run that stands there twice, the first; a torn line is left out."""
    path = out / RECORDS_FILE
    found: dict[str, Record] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found.setdefault(record["digest"], record)
    return list(found.values())


def _arms(records: Sequence[Record]) -> list[list[Record]]:
    """Records that differ in nothing but the seed, together."""

    def arm(record: Record) -> tuple[str, ...]:
        parts = {**record["cell"], "epochs": record["epochs"], "view_size": record["view_size"]}
        return tuple(str(parts[name]) for name in sorted(parts) if name != "seed")

    first: dict[tuple[str, ...], int] = {}
    for number, record in enumerate(records):
        first.setdefault(arm(record), number)
    ordered = sorted(records, key=lambda record: first[arm(record)])
    return [list(group) for _, group in groupby(ordered, key=arm)]


def _label(record: Record) -> str:
    cell = record["cell"]
    rate = "" if cell["lr"] is None else f", lr {cell['lr']:g}"
    return f"{cell['method']}, {cell['strategy']}, {cell['negatives']}, {cell['fill']}{rate}"


def _mean(arm: Sequence[Record], name: str) -> tuple[float, float, float]:
    """Mean over the seeds, and of the intervals' ends: all seeds classify the same images."""
    low, high = zip(*(record[f"{name}_interval"] for record in arm), strict=True)
    return fmean(record[name] for record in arm), fmean(low), fmean(high)


def table(records: Sequence[Record]) -> str:
    """A Markdown table, an arm a line, in the order in which the arms were first finished."""
    lines = [
        "| method | strategy | hard negatives | fill | lr | epochs | seeds | 20-NN % "
        "| linear % | min a run |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in _arms(records):
        cell = arm[0]["cell"]
        figures = []
        for name in ("knn", "linear"):
            mean, low, high = _mean(arm, name)
            spread = f", sd {stdev(r[name] for r in arm):.1f}" if len(arm) > 1 else ""
            figures.append(f"{mean:.1f} [{low:.1f}, {high:.1f}]{spread}")
        rate = "recipe" if cell["lr"] is None else f"{cell['lr']:g}"
        minutes = fmean(r["train_seconds"] for r in arm) / 60
        lines.append(
            f"| {cell['method']} | {cell['strategy']} | {cell['negatives']} | {cell['fill']} "
            f"| {rate} | {arm[0]['epochs']} | {len(arm)} | {figures[0]} | {figures[1]} "
            f"| {minutes:.1f} |"
        )
    if records:
        starts = sorted({record["knn_curve"][0][1] for record in records})
        untrained = f"{starts[0]:.1f}" + (f" to {starts[-1]:.1f}" if len(starts) > 1 else "")
        lines += [
            "",
            f"Untrained: 20-NN {untrained} %. Brackets: 95 % bootstrap over the "
            f"{records[0]['num_val']} validation images; sd: over seeds. Linear: the fast probe.",
        ]
    return "\n".join(lines)


def plot(records: Sequence[Record], path: Path) -> str:
    """Draws 20-NN and linear top-1 of every arm with their intervals; returns what to say."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no plot: matplotlib is not installed"
    arms = _arms(records)
    figure = Figure(figsize=(11, 1.2 + 0.42 * len(arms)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    places = range(len(arms))
    for axis, name, title in zip(
        axes, ("knn", "linear"), ("20-NN top-1, %", "fast linear probe top-1, %"), strict=True
    ):
        for place, arm in zip(places, arms, strict=True):
            mean, low, high = _mean(arm, name)
            axis.plot([low, high], [place, place], color="0.6", linewidth=2)
            axis.plot([record[name] for record in arm], [place] * len(arm), "|", color="C1")
            axis.plot(mean, place, "o", color="C0")
        axis.set_title(title)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(list(places), [_label(arm[0]) for arm in arms])
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=120)
    return f"plot {path}"
