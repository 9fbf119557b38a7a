"""A run's numbers over its epochs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from training.methods.moco import MoCoConfig
from training.methods.simclr import SimCLRConfig
from training.record.metrics import TIMINGS
from training.report.charts.lines import Reference, Series, line_chart
from training.report.page import Block, Chart, Charts, Folded, Section, Words, missing
from training.report.run.state import RunState


class Curve(NamedTuple):
    """One chart.

    Attributes:
        title: what it shows.
        names: in the record, each with what it is called in the legend.
        unit: of the values as drawn.
        factor: from recorded to drawn values.
        from_zero: whether the axis begins at 0.
        note: a line below.
    """

    title: str
    names: Sequence[tuple[str, str]]
    unit: str = ""
    factor: float = 1.0
    from_zero: bool = False
    note: str = ""


LEARNING = (
    Curve(
        "Loss", (("loss", "loss"),), note="Means over the steps between two lines of the record."
    ),
    Curve("Weighted nearest neighbours, top-1", (("knn", "kNN"),), "%"),
    Curve("Held-out contrastive loss", (("heldout_loss", "held-out loss"),)),
    Curve(
        "Queries that find their own key first",
        (("instance_accuracy", "instance accuracy"),),
        "%",
        100,
        from_zero=True,
    ),
    Curve(
        "Spread of the embeddings",
        (("embedding_spread", "spread"),),
        from_zero=True,
        note="1: all over the sphere; 0: at one point, collapsed.",
    ),
    Curve("Learning rate", (("lr", "learning rate"),), from_zero=True),
)
SPEED = (
    Curve("Images a second", (("images_per_second", "images/s"),), "images/s", from_zero=True),
    Curve(
        "Time spent waiting for data",
        (("data_wait_share", "waiting"),),
        "% of a step",
        100,
        from_zero=True,
    ),
)
MASKING = (
    Curve(
        "Cosine similarity of a query to",
        (
            ("positive_similarity", "its key"),
            ("negative_similarity", "other images"),
            ("hard_negative_similarity", "its hard negative"),
        ),
    ),
    Curve(
        "Masked share of the query",
        (
            ("query_masked_foreground", "of the foreground"),
            ("query_masked_background", "of the background"),
        ),
        "%",
        100,
        from_zero=True,
    ),
    Curve(
        "Masked share of the key",
        (
            ("key_masked_foreground", "of the foreground"),
            ("key_masked_background", "of the background"),
        ),
        "%",
        100,
        from_zero=True,
    ),
    Curve(
        "Masked share of the hard negative",
        (
            ("negative_masked_foreground", "of the foreground"),
            ("negative_masked_background", "of the background"),
        ),
        "%",
        100,
        from_zero=True,
    ),
    Curve(
        "Foreground share of the query",
        (("foreground_share", "foreground"),),
        "% of patches",
        100,
    ),
    Curve("Weight of the hard negative (rho)", (("rho", "rho"),), from_zero=True),
)
IDENTITIES = ("step", "damaged_samples", "seconds")
"""Numbers in the record that are no curves."""


def learning_section(run: RunState) -> Section:
    """Loss, kNN, learning rate, spread."""
    blocks: list[Block] = [Words(text=text, tone="warning") for text in run.warnings]
    charts = _charts(run, LEARNING)
    blocks.append(Charts(charts=charts) if charts else missing("Nothing was recorded yet."))
    if charts and run.column("knn") is None:
        blocks.append(missing("No kNN was measured: the run had no labelled shards for it."))
    return Section(anchor="learning", title="Learning", blocks=blocks)


def speed_section(run: RunState) -> Section:
    """Images a second and waiting."""
    charts = _charts(run, SPEED)
    block = Charts(charts=charts) if charts else missing("Nothing was recorded yet.")
    return Section(anchor="speed", title="Speed", blocks=(block,))


def masking_section(run: RunState) -> Section:
    """Similarities and masked shares, and whatever else was recorded."""
    charts = _charts(run, MASKING)
    blocks: list[Block] = [
        Charts(charts=charts) if charts else missing("Nothing was recorded yet.")
    ]
    if charts and run.column("hard_negative_similarity") is None:
        blocks.append(missing("This run had no hard negatives in its loss."))
    known = {name for curve in (*LEARNING, *SPEED, *MASKING) for name, _ in curve.names}
    recorded = {name for entry in run.entries for name, value in entry.items() if _is_number(value)}
    others = sorted(recorded - known - {*IDENTITIES, *TIMINGS})
    rest = _charts(run, [Curve(name, ((name, name),)) for name in others])
    if rest:
        blocks.append(Folded(summary="Other numbers", blocks=(Charts(charts=rest),)))
    return Section(anchor="telemetry", title="Masks and similarities", blocks=blocks)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _charts(run: RunState, curves: Sequence[Curve]) -> list[Chart]:
    charts = []
    for curve in curves:
        series = []
        for name, label in curve.names:
            column = run.column(name)
            if column is not None:
                series.append(Series(label, column[0], column[1] * curve.factor))
        if series:
            name = curve.names[0][0]
            charts.append(
                line_chart(
                    name,
                    curve.title,
                    series,
                    x_label=run.x_label,
                    unit=curve.unit,
                    reference=_reference(run, name),
                    from_zero=curve.from_zero,
                    note=curve.note,
                )
            )
    return charts


def _reference(run: RunState, name: str) -> Reference | None:
    """What a curve is compared with: the untrained network, or similarities that tell nothing."""
    if name == "knn":
        column = run.column(name)
        if column is not None and column[0][0] == 0 and len(column[0]) > 1:
            return Reference("untrained", float(column[1][0]))
    if name == "loss" and run.config is not None:
        method = run.config.method
        if isinstance(method, MoCoConfig):
            return Reference("log(queue + 1)", math.log(method.queue_size + 1))
        if isinstance(method, SimCLRConfig):
            return Reference("log(2 batch - 1)", math.log(2 * run.config.batch_size - 1))
    return None
