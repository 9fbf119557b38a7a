"""The report of a stream of sets: every set's figure after every stage, and what was forgotten."""

from typing import Any

import numpy as np

from training.report.config import ReportConfig
from training.report.figures import DASHES, LEVEL, Chart, colour, line_chart
from training.report.wording import shortened
from training.stream.forgetting import UNITS, Forgetting, read_forgetting

LONGEST_NAME = 40


def stream_page(config: ReportConfig) -> dict[str, Any]:
    """What the template takes; InputError where the table cannot be read."""
    table = read_forgetting(config.folder)
    return {
        "table": table,
        "names": [shortened(name, LONGEST_NAME) for name in table.sets],
        "charts_of_sets": [chart_of(table, kind) for kind in UNITS if kind in table.kinds],
    }


def chart_of(table: Forgetting, kind: str) -> Chart:
    """Draw the sets of one figure over the stages; dotted: the run on all sets at once."""
    stages = np.arange(len(table.values_ST), dtype=np.float64)
    own = [number for number, one in enumerate(table.kinds) if one == kind]
    curves = {f"set {number}": (stages, table.values_ST[:, number]) for number in own}
    chart = line_chart(f"{UNITS[kind]}, of every set", curves, x_label="after stage")
    if table.joint_T is not None:
        for place, number in enumerate(own):
            level = dict(LEVEL, color=colour(place), dash=DASHES[-1])
            y, name = [float(table.joint_T[number])] * 2, f"set {number}, joint"
            chart.figure.add_scatter(x=stages[[0, -1]], y=y, name=name, mode="lines", line=level)
    chart.figure.update_xaxes(tickvals=stages)
    return chart
