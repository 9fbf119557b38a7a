import json
from html import unescape

import numpy as np
import pytest

from training.report.figures import (
    Series,
    histogram,
    line_chart,
    log_ticks,
    named_bars,
    thinned,
)

X = np.arange(30.0)


def test_a_curve_in_words() -> None:
    series = [Series("loss", X[:3], np.array([6.0, 7.0, 5.5]))]
    chart = line_chart("Loss", series, x_label="epoch", reference=("chance", 6.9))
    assert chart.alt == (
        "Loss. loss: from 6 at epoch 0 to 5.5 at epoch 2, between 5.5 and 7. "
        "For comparison, chance: 6.9."
    )
    assert [trace.name for trace in chart.figure.data] == ["loss", "chance"]
    assert chart.figure.layout.showlegend
    far = line_chart("Loss", series, x_label="epoch", reference=("chance", 600.0))
    assert [trace.name for trace in far.figure.data] == ["loss"]
    one = line_chart("kNN", [Series("kNN", X[:1], X[:1] + 40)], x_label="epoch", unit="%")
    assert one.alt == "kNN. kNN: 40 % at epoch 0."
    assert one.title == "kNN, %"
    assert one.figure.layout.yaxis.title.text == "%"


def test_long_curves_keep_their_ends_and_peaks() -> None:
    rng = np.random.default_rng(0)
    x, y = np.arange(70_000.0), rng.normal(size=70_000)
    y[12_345], y[54_321] = 99.0, -99.0
    few_x, few_y = thinned(x, y)
    assert len(few_x) <= 1000
    assert (few_x[0], few_x[-1]) == (0, 69_999)
    assert {99.0, -99.0} <= set(few_y)
    assert np.array_equal(y[few_x.astype(int)], few_y)
    for one, other in zip(thinned(X, X), (X, X), strict=True):
        assert np.array_equal(one, other)


def test_a_histogram_counts_every_value_once() -> None:
    chart = histogram("Sides", np.arange(1, 102), x_label="px", unit="px", log_x=True)
    assert chart.alt == "Sides: median 51 px; nine tenths lie between 6 and 96 px."
    bars, median = chart.figure.data
    assert sum(bars.y) == 101
    edges = np.array(bars.customdata)
    assert (edges.min(), edges.max()) == pytest.approx((1, 101))
    assert set(median.x) == {51.0}
    whole = histogram("Sides", [7.0, 9.0, 9.0], x_label="px", log_x=True)
    assert "median 9" in whole.alt
    assert list(whole.figure.data[0].x) == [7, 8, 9]
    assert list(whole.figure.data[0].y) == [1, 0, 2]
    one = histogram("Sides", [0.7], x_label="px", log_x=True)
    assert sum(one.figure.data[0].y) == 1
    named = histogram("Sides", [0.2, 0.6, 0.7], x_label="px", bins=[0.0, 0.5, 1.0])
    assert list(named.figure.data[0].y) == [1, 2]


@pytest.mark.parametrize("ends", [(1.0, 1000.0), (0.0012, 0.098), (42, 77), (5.0, 5.1), (3, 3e8)])
def test_ticks_of_logarithmic_axes(ends: tuple[float, float]) -> None:
    ticks = log_ticks(*ends)
    assert ticks == sorted(set(ticks))
    assert 3 <= len(ticks) <= 10
    assert all(0.99 * ends[0] <= tick <= 1.01 * ends[1] for tick in ticks)


def test_texts_cannot_leave_their_place() -> None:
    name = "</script><b>cat & dog"
    chart = named_bars("Classes", [(name, 12.0), ("a" * 60, 3.5), (name, 1.0)])
    assert chart.alt == f"Classes: {name} 12; {'a' * 60} 3.5; {name} 1"
    assert "</" not in chart.json
    (trace,) = json.loads(chart.json)["data"]
    assert len(trace["text"]) == 3
    assert "<b>" not in trace["hovertext"][0]
    assert unescape(trace["hovertext"][0]) == f"{name}: 12"


def test_colours_are_those_of_the_page() -> None:
    chart = line_chart("A", [Series("a", X, X), Series("b", X, -X)], x_label="epoch")
    colours = [trace.line.color for trace in chart.figure.data]
    assert colours == ["var(--s0)", "var(--s1)"]
    assert len({trace.line.dash for trace in chart.figure.data}) == 2
    assert "#" not in chart.json
