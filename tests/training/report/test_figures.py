import json
from html import escape

import numpy as np
import pytest

from training.report.figures import (
    histogram,
    line_chart,
    log_ticks,
    named_bars,
    thinned,
)

X = np.arange(30.0)


def test_curves_in_words_and_in_the_colours_of_the_page() -> None:
    series = {"loss": (X[:3], np.array([6.0, 7.0, 5.5])), "other": (X, -X)}
    chart = line_chart("Loss, nats", series, x_label="epoch", level=("chance", 6.9))
    assert chart.alt == (
        "Loss, nats. loss: 5.5 at epoch 2, between 5.5 and 7. other: -29 at epoch 29, between -29 "
        "and -0. For comparison, chance: 6.9."
    )
    traces = chart.figure.data
    assert [trace.name for trace in traces] == ["loss", "other", "chance"]
    assert [trace.line.color for trace in traces[:2]] == ["var(--s0)", "var(--s1)"]
    assert len({trace.line.dash for trace in traces[:2]}) == 2
    assert list(traces[2].x) == [0, 29]
    assert chart.figure.layout.showlegend
    assert "#" not in chart.json
    scaled = line_chart("A", {"a": (X[1:4], X[1:4])}, x_label="share", log_x=True).figure
    assert (scaled.layout.xaxis.type, list(scaled.layout.xaxis.tickvals)) == ("log", [1, 2, 3])
    assert not scaled.layout.showlegend


def test_long_curves_keep_their_ends_and_peaks() -> None:
    rng = np.random.default_rng(0)
    x, y = np.arange(70_000.0), rng.normal(size=70_000)
    y[12_345], y[54_321] = 99.0, -99.0
    few_x, few_y = thinned(x, y)
    assert len(few_x) <= 1000
    assert (few_x[0], few_x[-1]) == (0, 69_999)
    assert {99.0, -99.0} <= set(few_y)
    assert np.array_equal(y[few_x.astype(int)], few_y)
    assert np.array_equal(thinned(X, X)[0], X)


def test_a_histogram_counts_every_value_once() -> None:
    chart = histogram("Sides", np.arange(1, 102), x_label="px", log_x=True)
    assert chart.alt == "Sides, px: median 51; nine tenths lie between 6 and 96."
    bars, median = chart.figure.data
    assert sum(bars.y) == 101
    edges = np.array(bars.customdata)
    assert (edges.min(), edges.max()) == pytest.approx((1, 101))
    assert set(median.x) == {51.0}
    whole = histogram("Sides", [7.0, 9.0, 9.0], x_label="px", log_x=True)
    assert list(whole.figure.data[0].x) == [7, 8, 9]
    assert list(whole.figure.data[0].y) == [1, 0, 2]
    assert sum(histogram("S", [0.7], x_label="px", log_x=True).figure.data[0].y) == 1
    named = histogram("Sides", [0.2, 0.6, 0.7], x_label="px", edges=[0.0, 0.5, 1.0])
    assert list(named.figure.data[0].y) == [1, 2]


@pytest.mark.parametrize("ends", [(1.0, 1000.0), (0.0012, 0.098), (42, 77), (5.0, 5.1), (3, 3e8)])
def test_ticks_of_logarithmic_axes(ends: tuple[float, float]) -> None:
    ticks = log_ticks(*ends)
    assert ticks == sorted(set(ticks))
    assert 3 <= len(ticks) <= 10
    assert all(0.99 * ends[0] <= tick <= 1.01 * ends[1] for tick in ticks)


def test_texts_cannot_leave_their_place() -> None:
    name = "</script><b>cat & dog"
    curves = line_chart("A", {name: (X, X)}, x_label="epoch").figure.data
    assert curves[0].name == escape(name)
    chart = named_bars("Classes", [(name, 1200), ("a" * 60, 3), (name, 1)])
    assert chart.figure.layout.yaxis.ticktext[0] == escape(name)
    assert chart.alt == f"Classes: {name} 1,200; {'a' * 60} 3; {name} 1"
    assert "</" not in chart.json
    (trace,) = json.loads(chart.json)["data"]
    assert len(trace["text"]) == 3
    assert trace["hovertext"][0] == f"{escape(name)} 1,200"
