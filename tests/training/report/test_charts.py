import re
from xml.etree import ElementTree

import numpy as np
import pytest

from training.report.charts.bars import histogram, named_bars
from training.report.charts.lines import Reference, Series, line_chart
from training.report.charts.parallel import Scale, parallel_coordinates
from training.report.charts.points import class_map
from training.report.page import Chart

X = np.arange(30.0)


def charts() -> list[Chart]:
    rng = np.random.default_rng(0)
    return [
        line_chart(
            "loss",
            "Loss & more",
            [Series("a", X, 6 - X / 20), Series('b "<"', X, X)],
            x_label="epoch",
            unit="%",
            reference=Reference("chance", 5.0),
        ),
        histogram("sizes", "Sizes", 10 ** rng.uniform(1, 3, 99), x_label="px", log_x=True),
        named_bars("classes", "Classes", [("cat & dog", 12.0), ("a" * 60, 3.5)]),
        class_map(
            "map",
            "Map",
            rng.normal(size=(40, 2)),
            rng.integers(0, 12, 40),
            [f"class {i}" for i in range(12)],
            axes_labels=("first", "second"),
            alt="A map",
        ),
        parallel_coordinates(
            "parallel",
            "Trials",
            [Scale(n, rng.uniform(size=5), [(0.0, "low"), (1.0, "high")]) for n in "ab"],
            rng.uniform(size=5),
            best=2,
            alt="Trials",
        ),
    ]


@pytest.fixture(scope="module")
def drawn() -> list[Chart]:
    return charts()


def test_drawings_are_sound_and_take_their_colours_from_the_page(drawn: list[Chart]) -> None:
    for svg in [svg for chart in drawn for svg in (chart.svg, chart.narrow) if svg]:
        root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"]
        assert not re.search(r"#[0-9a-fA-F]{6}", svg), "a colour of its own"
        assert "var(--muted)" in svg
        assert "<style" not in svg
        assert "font-family" not in svg
        assert "DejaVu" not in svg


def test_ids_are_the_charts_own(drawn: list[Chart]) -> None:
    ids = [i for chart in drawn for i in re.findall(r' id="([^"]+)"', chart.svg + chart.narrow)]
    assert ids
    assert len(ids) == len(set(ids))
    for chart in drawn:
        for svg in (chart.svg, chart.narrow):
            wanted = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
            assert wanted <= set(re.findall(r' id="([^"]+)"', svg))


def test_the_same_numbers_give_the_same_bytes(drawn: list[Chart]) -> None:
    assert charts() == drawn


def test_a_curve_in_words() -> None:
    series = [Series("loss", X[:3], np.array([6.0, 7.0, 5.5]))]
    chart = line_chart("l", "Loss", series, x_label="epoch", reference=Reference("chance", 6.9))
    assert chart.alt == (
        "Loss. loss: from 6 at epoch 0 to 5.5 at epoch 2, between 5.5 and 7. "
        "For comparison, chance: 6.9."
    )
    assert [key.label for key in chart.keys] == ["loss", "chance"]
    far = line_chart("l", "Loss", series, x_label="epoch", reference=Reference("chance", 600.0))
    assert far.keys == ()
    one = line_chart("l", "kNN", [Series("kNN", X[:1], X[:1] + 40)], x_label="epoch", unit="%")
    assert one.alt == "kNN. kNN: 40 % at epoch 0."


def test_a_histogram_in_words() -> None:
    chart = histogram("h", "Sides", np.arange(1, 102), x_label="px", unit="px")
    assert chart.alt == "Sides: median 51 px; nine tenths lie between 6 and 96 px."


def test_one_value_only() -> None:
    assert "median 7" in histogram("h", "Sides", [7.0], x_label="px", log_x=True).alt


def test_classes_beyond_the_colours_have_shapes(drawn: list[Chart]) -> None:
    labels = [key.label for key in drawn[3].keys]
    assert labels[0] == "class 0"
    assert labels[8] == "▲ class 8"
