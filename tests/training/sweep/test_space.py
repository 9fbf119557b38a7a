"""A search space: what a person writes, what is refused by name, and the points that it gives."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from training.config.fields import with_fields
from training.config.recipes import find_recipe
from training.sweep import space as module
from training.sweep.config import SearchOptions, make_sweep
from training.sweep.space import SPACES, Interval, Values, find_space, parse_space, random_point


def test_a_space_has_the_domains_that_were_given() -> None:
    space = parse_space(
        grid=["masks.query_ratio=0.05:0.25,0.4"],
        choice=["encoder.compile=true,false"],
        uniform=["masks.foreground-threshold=-1..0.5", "method.hard_negatives=0..3"],
        log_uniform=["optim.lr=1e-3..1e-1"],
    )
    assert space == {
        "masks.query_ratio": Values("grid", ("0.05:0.25", 0.4)),
        "encoder.compile": Values("choice", (True, False)),
        "masks.foreground_threshold": Interval("uniform", -1.0, 0.5),
        "method.hard_negatives": Interval("uniform", 0.0, 3.0, whole=True),
        "optim.lr": Interval("log_uniform", 0.001, 0.1),
    }
    plain = module.space_to_json(space)
    assert plain["masks.query_ratio"] == {"kind": "grid", "values": ("0.05:0.25", 0.4)}
    assert plain["optim.lr"] == {"kind": "log_uniform", "low": 0.001, "high": 0.1}
    words = ("3", "0.5", "1e-3", "true", "mean", "0.1:0.2")
    values = [module.plain_value(word) for word in words]
    assert list(map(repr, values)) == ["3", "0.5", "0.001", "True", "'mean'", "'0.1:0.2'"]
    assert module.shown({"a": 0.123456, "b": "x", "c": 3}) == "a=0.1235, b=x, c=3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": ["masks.query=0.1"]}, "no field 'masks.query': did you mean masks.query_ratio"),
        ({"grid": ["epochs"]}, "--grid epochs has no values"),
        ({"grid": ["epochs=1,1"]}, "has a value twice"),
        ({"grid": ["epochs=1"], "uniform": ["epochs=1..2"]}, "epochs is given twice"),
        ({"uniform": ["optim.lr=0.1"]}, "is no interval: wanted optim.lr=LOW..HIGH"),
        ({"uniform": ["optim.lr=2..1"]}, "LOW below HIGH"),
        ({"uniform": ["optim.lr=0..inf"]}, "LOW below HIGH"),
        ({"log_uniform": ["optim.lr=0..1"]}, "--log-uniform .* needs numbers above 0"),
    ],
)
def test_what_is_no_space_is_refused(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_space(**options)


def test_the_grid_is_every_combination_the_last_field_the_fastest() -> None:
    points = module.grid_points(parse_space(grid=["epochs=1,2", "seed=0,1,2"]))
    pairs = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert [(point["epochs"], point["seed"]) for point in points] == pairs


def test_random_points_depend_on_seed_and_number_alone_and_fill_their_domains() -> None:
    space = parse_space(
        choice=["fill=mean,blur,high_pass"],
        uniform=["masks.foreground_threshold=-1..0", "method.hard_negatives=0..2"],
        log_uniform=["optim.lr=0.001..0.1", "method.queue_size=16..1024"],
    )
    points = [random_point(space, seed=0, number=number) for number in range(400)]
    assert points[7] == random_point(space, seed=0, number=7)
    assert points[7] != random_point(space, seed=1, number=7)
    assert len({str(point) for point in points}) == 400
    assert {point["fill"] for point in points} == {"mean", "blur", "high_pass"}
    assert {point["method.hard_negatives"] for point in points} == {0, 1, 2}
    thresholds = np.array([point["masks.foreground_threshold"] for point in points], dtype=float)
    assert (-1 <= thresholds.min() < -0.9, -0.1 < thresholds.max() <= 0) == (True, True)
    rates = np.array([point["optim.lr"] for point in points], dtype=float)
    assert (0.001 <= rates.min() < 0.0012, 0.08 < rates.max() <= 0.1) == (True, True)
    # half of the logarithm's interval on either side of 0.01: 200 of 400, sd 10
    assert 150 < int((rates < 0.01).sum()) < 250
    sizes = [point["method.queue_size"] for point in points]
    assert all(isinstance(size, int) and 16 <= size <= 1024 for size in sizes)


@pytest.mark.parametrize("method", ["moco_v2", "simclr", "byol"])
@pytest.mark.parametrize("name", SPACES)
def test_every_trial_of_every_named_space_can_be_configured(name: str, method: str) -> None:
    base = find_recipe("moco_v2_small")(Path("/s"), Path("/o"))
    named = find_space(name, with_fields(base, {"knn.val_shards": "/v", "method": method}))
    sweep = make_sweep(named, SearchOptions())
    assert sweep.num_trials == {"mask_ratio": 12, "mask_full": 24, "data_scaling": 12}[name]
    configs = [sweep.trial_config(n, point) for n, point in enumerate(sweep.points())]
    assert len({str(config) for config in configs}) == sweep.num_trials
    rho = "rho" in " ".join(named.space)
    assert rho == (name == "mask_full" and method != "byol")


def test_named_spaces_prepare_their_base() -> None:
    base = find_recipe("simclr_small")(Path("/s"), Path("/o"))
    base = with_fields(base, {"knn.val_shards": "/v", "epochs": 20})
    assert find_space(None, base).space == {}
    assert find_space("mask_full", base).base == base
    assert find_space("mask_ratio", base).base.masks.strategy == "balanced"
    shuffled = with_fields(base, {"masks.strategy": "shuffled", "heldout.shards": "/h"})
    assert [find_space(name, shuffled).base for name in SPACES] == [shuffled] * 3
    scaling = find_space("data_scaling", base)
    assert (scaling.base.heldout.shards, scaling.scheduler) == (Path("/v"), "none")
    assert scaling.space["epochs"] == Values("grid", (5, 10, 20))
