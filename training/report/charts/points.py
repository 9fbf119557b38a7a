"""Points in the plane: a map of features, an objective over a parameter."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.report.charts.lines import few_ticks
from training.report.charts.theme import INK, PAPER, drawing, series_colour, to_svg
from training.report.page import SERIES, Chart, Key

SHAPES = ("o", "^", "s", "D", "v", "P")
MAP_INCHES = (4.6, 4.3)


def class_map(
    name: str,
    title: str,
    places_N2: NDArray[np.float64],
    labels_N: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    axes_labels: tuple[str, str],
    alt: str,
    note: str = "",
) -> Chart:
    """Points coloured by class; shapes change when the colours are used up.

    Args:
        name: of the chart, its own on the page.
        title: what is drawn.
        places_N2: float64 [N, 2].
        labels_N: int64 [N], indices into the class names.
        class_names: all of them.
        axes_labels: of the two axes.
        alt: what it shows.
        note: a line below.
    """
    with drawing(MAP_INCHES) as (drawn, axes):
        for label in range(len(class_names)):
            of_class = labels_N == label
            axes.scatter(
                places_N2[of_class, 0],
                places_N2[of_class, 1],
                s=13,
                marker=SHAPES[label // SERIES % len(SHAPES)],
                color=series_colour(label),
                edgecolors=PAPER,
                linewidths=0.4,
            )
        axes.set_xlabel(axes_labels[0])
        axes.set_ylabel(axes_labels[1])
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        svg = to_svg(drawn, name, alt)
    marks: tuple[str, ...] = tuple(class_names)
    keys = tuple(Key(_with_shape(text, i), i % SERIES, "dot") for i, text in enumerate(marks))
    return Chart(title=title, svg=svg, alt=alt, keys=keys, note=note, wide=True)


def _with_shape(class_name: str, label: int) -> str:
    """The name, with the shape where the colour alone does not tell."""
    shape = ("", "▲", "■", "◆", "▼", "✚")[label // SERIES % len(SHAPES)]
    return f"{shape} {class_name}" if shape else class_name


def objective_over(
    name: str,
    title: str,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    x_label: str,
    alt: str,
    whole: NDArray[np.bool_],
    best: int | None,
    ticks: Sequence[tuple[float, str]] | None = None,
    log_x: bool = False,
    keys: tuple[Key, ...] = (),
) -> Chart:
    """The objective of trials over one parameter.

    Args:
        name: of the chart, its own on the page.
        title: what is drawn.
        x: places, float64 [n].
        y: objective, float64 [n].
        x_label: the parameter.
        alt: what it shows.
        whole: bool [n]: trials that ran to their end; others are drawn as rings.
        best: index of the best trial, which is marked.
        ticks: places with names; none: the axis finds its own.
        log_x: whether the axis is logarithmic.
        keys: legend.
    """
    with drawing() as (drawn, axes):
        colour = series_colour(0)
        axes.scatter(x[whole], y[whole], s=30, color=colour)
        axes.scatter(x[~whole], y[~whole], s=26, facecolors="none", edgecolors=colour)
        if best is not None:
            axes.scatter(x[[best]], y[[best]], s=110, facecolors="none", edgecolors=INK)
        axes.set_xlabel(x_label)
        few_ticks(axes)
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if ticks is not None:
            axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
            axes.set_xticks([], minor=True)
        axes.margins(x=0.12)
        svg = to_svg(drawn, name, alt)
    return Chart(title=title, svg=svg, alt=alt, keys=keys)
