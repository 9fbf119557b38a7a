"""The numbers of a run over its epochs."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from training.methods.moco.settings import MoCoConfig
from training.methods.simclr.settings import SimCLRConfig
from training.record.metrics import TIMINGS
from training.report.figures import Chart, Series, line_chart
from training.report.run.state import RunState


class Curve(NamedTuple):
    """One chart.

    Attributes:
        title: what it shows.
        names: recorded name to name in the legend.
        unit: of the values as drawn.
        factor: from recorded to drawn values.
        from_zero: whether the y axis starts at 0.
        note: a line below.
    """

    title: str
    names: Mapping[str, str]
    unit: str = ""
    factor: float = 1.0
    from_zero: bool = False
    note: str = ""


LEARNING = (
    Curve("Loss", {"loss": "loss"}, "nats", note="Means over the steps between two records."),
    Curve("kNN accuracy (weighted, top-1)", {"knn": "kNN"}, "%"),
    Curve("Held-out contrastive loss", {"heldout_loss": "held-out loss"}, "nats"),
    Curve(
        "Queries whose own key is the most similar",
        {"instance_accuracy": "instance accuracy"},
        "%",
        100,
        from_zero=True,
    ),
    Curve(
        "Spread of the embeddings",
        {"embedding_spread": "spread"},
        from_zero=True,
        note="1: spread over the whole sphere; 0: collapsed to one point.",
    ),
    Curve("Learning rate", {"lr": "learning rate"}, from_zero=True),
)
SPEED = (
    Curve("Throughput", {"images_per_second": "throughput"}, "images/s", from_zero=True),
    Curve("Time spent waiting for data", {"data_wait_share": "waiting"}, "% of a step", 100, True),
)
MASKING = (
    Curve(
        "Cosine similarity of a query to",
        {
            "positive_similarity": "its key",
            "negative_similarity": "other images",
            "hard_negative_similarity": "its hard negative",
        },
    ),
    *(
        Curve(
            f"Masked share of the {view}",
            {
                f"{prefix}_masked_foreground": "of the foreground",
                f"{prefix}_masked_background": "of the background",
            },
            "%",
            100,
            from_zero=True,
        )
        for prefix, view in (("query", "query"), ("key", "key"), ("negative", "hard negative"))
    ),
    Curve("Foreground of the query", {"foreground_share": "foreground"}, "% of patches", 100),
    Curve("Weight of the hard negative (rho)", {"rho": "rho"}, from_zero=True),
)
NOT_CURVES = ("step", "damaged_samples", "seconds")
"""Recorded numbers that are not drawn."""


def charts(run: RunState, curves: Sequence[Curve]) -> list[Chart]:
    """Draw the curves that were recorded."""
    drawn = []
    for curve in curves:
        columns = [(label, run.column(name)) for name, label in curve.names.items()]
        series = [Series(label, x, y * curve.factor) for label, (x, y) in columns if len(x)]
        if series:
            drawn.append(
                line_chart(
                    curve.title,
                    series,
                    x_label=run.x_label,
                    unit=curve.unit,
                    reference=_reference(run, next(iter(curve.names))),
                    from_zero=curve.from_zero,
                    note=curve.note,
                )
            )
    return drawn


def other_curves(run: RunState) -> list[Curve]:
    """Curves of the recorded numbers that have no chart of their own."""
    known = {name for curve in (*LEARNING, *SPEED, *MASKING) for name in curve.names}
    recorded = {
        name
        for entry in run.entries
        for name, value in entry.items()
        if isinstance(value, int | float)
    }
    return [
        Curve(name, {name: name}) for name in sorted(recorded - known - {*NOT_CURVES, *TIMINGS})
    ]


def _reference(run: RunState, name: str) -> tuple[str, float] | None:
    """A level to compare with: the untrained network, or a loss that tells nothing apart."""
    if name == "knn":
        epochs, values = run.column(name)
        if len(epochs) > 1 and epochs[0] == 0:
            return "untrained", float(values[0])
    if name == "loss" and run.config is not None:
        method = run.config.method
        if isinstance(method, MoCoConfig):
            return "log(queue + 1)", math.log(method.queue_size + 1)
        if isinstance(method, SimCLRConfig):
            return "log(2 batch - 1)", math.log(2 * run.config.batch_size - 1)
    return None
