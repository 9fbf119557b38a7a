"""Reading a search space: what a person writes, and what is refused by name."""

from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from training.config.recipes import debug
from training.core.fields import with_fields
from training.sweep.space import (
    Interval,
    Values,
    check_values,
    grid_points,
    parse_space,
    plain_value,
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


def test_an_interval_or_nothing_has_no_grid() -> None:
    with pytest.raises(InputError, match=r"optim\.lr is an interval, of which there is no grid"):
        grid_points(parse_space(uniform=["optim.lr=0..1"]))
    with pytest.raises(InputError, match="nothing to sweep"):
        grid_points({})


def test_words_are_numbers_where_they_can_be() -> None:
    assert [plain_value(word) for word in ("3", "0.5", "1e-3", "true", "mean", "0.1:0.2")] == [
        3, 0.5, 0.001, True, "mean", "0.1:0.2",
    ]  # fmt: skip
    assert shown({"a": 0.123456, "b": "x", "c": 3}) == "a=0.1235, b=x, c=3"
