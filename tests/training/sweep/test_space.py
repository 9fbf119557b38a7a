"""A search space: what a person writes, what is refused by name, and the points that it gives."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from training.config.fields import with_fields
from training.config.recipes import debug
from training.sweep.space import (
    Interval,
    Values,
    check_values,
    fixed_points,
    grid_points,
    num_points,
    parse_space,
    plain_value,
    random_point,
    shown,
    space_to_json,
)

BASE = debug(Path("s"), Path("o"))


def test_a_space_has_the_domains_that_were_given() -> None:
    space = parse_space(
        grid=["masks.query_ratio=0.05:0.25,0.4"],
        choice=["fill=mean,blur", "encoder.compile=true,false"],
        uniform=["masks.foreground-threshold=-1..0.5", "method.hard_negatives=0..3"],
        log_uniform=["optim.lr=1e-3..1e-1"],
    )
    assert space == {
        "masks.query_ratio": Values("grid", ("0.05:0.25", 0.4)),
        "fill": Values("choice", ("mean", "blur")),
        "encoder.compile": Values("choice", (True, False)),
        "masks.foreground_threshold": Interval("uniform", -1.0, 0.5),
        "method.hard_negatives": Interval("uniform", 0.0, 3.0, whole=True),
        "optim.lr": Interval("log_uniform", 0.001, 0.1),
    }
    assert space_to_json(space)["masks.query_ratio"] == {
        "kind": "grid",
        "values": ["0.05:0.25", 0.4],
    }
    assert space_to_json(space)["optim.lr"] == {"kind": "log_uniform", "low": 0.001, "high": 0.1}


def test_the_grid_is_every_combination_the_last_field_the_fastest() -> None:
    points = grid_points(parse_space(grid=["epochs=1,2", "seed=0,1,2"]))
    assert [(point["epochs"], point["seed"]) for point in points] == [
        (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": ["masks.query=0.1"]}, "no field 'masks.query': did you mean masks.query_ratio"),
        ({"grid": ["epochs"]}, "--grid epochs has no values"),
        ({"grid": ["epochs="]}, "--grid epochs has no values"),
        ({"grid": ["epochs=1,1"]}, "has a value twice"),
        ({"grid": ["epochs=1"], "uniform": ["epochs=1..2"]}, "epochs is given twice"),
        ({"uniform": ["optim.lr=0.1"]}, "is no interval: wanted optim.lr=LOW..HIGH"),
        ({"uniform": ["optim.lr=a..b"]}, "is no interval"),
        ({"uniform": ["optim.lr=2..1"]}, "LOW below HIGH"),
        ({"uniform": ["optim.lr=0..inf"]}, "LOW below HIGH"),
        ({"log_uniform": ["optim.lr=0..1"]}, "needs numbers above 0"),
    ],
)
def test_what_is_no_space_is_refused(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_space(**options)


def test_a_value_out_of_its_fields_range_is_named() -> None:
    with pytest.raises(InputError, match=r"masks\.query_ratio=1\.4: .*wanted 0 <= low"):
        check_values(parse_space(grid=["masks.query_ratio=0.3,1.4"]), BASE)
    with pytest.raises(InputError, match=r"method\.key_momentum=1\.5"):
        check_values(
            parse_space(uniform=["method.key_momentum=0.5..1.5"]),
            with_fields(BASE, {"method": "moco_v2"}),
        )
    check_values(parse_space(grid=["masks.query_ratio=0.3,0.4"]), BASE)


def test_how_many_trials_there_are() -> None:
    grid, drawn = parse_space(grid=["epochs=1,2", "seed=0,1,2"]), parse_space(uniform=["seed=0..9"])
    assert num_points(grid, "grid", None) == num_points(grid, "grid", 6) == 6
    assert (num_points(drawn, "random", None), num_points(drawn, "random", 30)) == (8, 30)
    with pytest.raises(InputError, match="the grid has 6 points, and --num-trials says 4"):
        num_points(grid, "grid", 4)
    with pytest.raises(InputError, match="seed is an interval, of which there is no grid"):
        num_points(drawn, "grid", None)
    with pytest.raises(InputError, match="nothing to sweep"):
        num_points({}, "random", 4)


def test_words_are_numbers_where_they_can_be() -> None:
    assert [plain_value(word) for word in ("3", "0.5", "1e-3", "true", "mean", "0.1:0.2")] == [
        3, 0.5, 0.001, True, "mean", "0.1:0.2",
    ]  # fmt: skip
    assert shown({"a": 0.123456, "b": "x", "c": 3}) == "a=0.1235, b=x, c=3"


DRAWN = parse_space(
    choice=["fill=mean,blur,high_pass"],
    uniform=["masks.foreground_threshold=-1..0", "method.hard_negatives=0..2"],
    log_uniform=["optim.lr=0.001..0.1", "method.queue_size=16..1024"],
)


def test_random_points_depend_on_seed_and_number_alone() -> None:
    points = fixed_points(DRAWN, "random", seed=3, count=20)
    assert points == fixed_points(DRAWN, "random", seed=3, count=30)[:20]
    assert points[7] == random_point(DRAWN, seed=3, number=7)
    assert points != fixed_points(DRAWN, "random", seed=4, count=20)
    assert len({str(point) for point in points}) == 20


def test_random_points_fill_their_domains() -> None:
    points = fixed_points(DRAWN, "random", seed=0, count=400)
    assert {point["fill"] for point in points} == {"mean", "blur", "high_pass"}
    assert {point["method.hard_negatives"] for point in points} == {0, 1, 2}
    thresholds = np.array([point["masks.foreground_threshold"] for point in points], dtype=float)
    assert -1 <= thresholds.min() < -0.9
    assert -0.1 < thresholds.max() <= 0
    rates = np.array([point["optim.lr"] for point in points], dtype=float)
    assert 0.001 <= rates.min() < 0.0012
    assert 0.08 < rates.max() <= 0.1
    # half of the logarithm's interval on either side of 0.01: 200 of 400, sd 10
    assert 150 < int((rates < 0.01).sum()) < 250
    sizes = [point["method.queue_size"] for point in points]
    assert all(isinstance(size, int) and 16 <= size <= 1024 for size in sizes)
