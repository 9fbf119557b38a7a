"""A search space: what a person writes, the points and the trials that it gives."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import InputError
from tests.made_sweeps import small_sweep
from training.config.fields import with_fields
from training.config.recipes import find_recipe
from training.sweep import space as module
from training.sweep.config import SearchOptions, make_sweep, trial_config
from training.sweep.space import SPACES, Domain, find_space, grid_points, parse_space

OUT = Path("/out")


def test_a_space_has_the_domains_that_were_given() -> None:
    space = parse_space(
        grid=["masks.query_ratio=0.05:0.25,0.4"],
        choice=["encoder.compile=true,false"],
        uniform=["masks.foreground-threshold=-1..0.5", "method.hard_negatives=0..3"],
        log_uniform=["optim.lr=1e-3..1e-1"],
    )
    assert space == {
        "masks.query_ratio": Domain("grid", ("0.05:0.25", 0.4)),
        "encoder.compile": Domain("choice", (True, False)),
        "masks.foreground_threshold": Domain("uniform", (-1.0, 0.5)),
        "method.hard_negatives": Domain("uniform", (0.0, 3.0), whole=True),
        "optim.lr": Domain("log_uniform", (0.001, 0.1)),
    }
    listed, drawn = space["masks.query_ratio"].to_json(), space["optim.lr"].to_json()
    assert listed == {"kind": "grid", "values": ("0.05:0.25", 0.4)}
    assert drawn == {"kind": "log_uniform", "low": 0.001, "high": 0.1}
    words = ("3", "0.5", "1e-3", "true", "mean", "0.1:0.2")
    values = [module.plain_value(word) for word in words]
    assert list(map(repr, values)) == ["3", "0.5", "0.001", "True", "'mean'", "'0.1:0.2'"]
    assert module.shown({"a": 0.123456, "b": "x", "c": 3}) == "a=0.1235, b=x, c=3"
    points = module.grid_points(parse_space(grid=["epochs=1,2", "seed=0,1,2"]))
    pairs = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]  # the last field the fastest
    assert [(point["epochs"], point["seed"]) for point in points] == pairs


def test_random_points_depend_on_seed_and_number_alone_and_fill_their_domains() -> None:
    space = parse_space(
        choice=["fill=mean,blur,high_pass"],
        uniform=["masks.foreground_threshold=-1..0", "method.hard_negatives=0..2"],
        log_uniform=["optim.lr=0.001..0.1", "method.queue_size=16..1024"],
    )
    points = small_sweep(OUT, space, num_trials=400).points()
    assert points[:8] == small_sweep(OUT, space).points()
    assert points[7] != small_sweep(OUT, space, search_seed=1).points()[7]
    known = np.random.default_rng([0, 7])
    assert points[7] == {name: domain.draw(known) for name, domain in space.items()}
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
    base = find_recipe("moco_v2_imagenet100")(Path("/s"), Path("/o"))
    named = find_space(name, with_fields(base, {"knn.val_shards": "/v", "method": method}))
    sweep = make_sweep(named, SearchOptions())
    ratios = 5 if method == "byol" else 15
    expected = {"mask_ratio": ratios, "mask_full": 24, "exchange": 4}
    expected |= {"crops": 12, "data_scaling": 12}
    assert sweep.num_trials == expected[name]
    configs = [trial_config(named.base, n, point) for n, point in enumerate(sweep.points())]
    assert len({str(config) for config in configs}) == sweep.num_trials
    rho = "rho" in " ".join(named.space)
    assert rho == (name == "mask_full" and method != "byol")


@pytest.mark.parametrize(
    ("changed", "num_ratios", "rho"),
    [
        ({}, 5, None),
        ({"method.hard_negatives": 1}, 15, "method.rho"),
        ({"method.hard_negatives": 1, "method.object_head": "both"}, 15, "method.object_rho"),
        ({"method.hard_negatives": 1, "method.object_head": "exchange"}, 5, None),
        ({"method.hard_negatives": 1, "method.hard_kind": "matched"}, 5, "method.rho"),
    ],
)
def test_a_named_space_varies_what_has_an_effect(
    changed: dict[str, Any], num_ratios: int, rho: str | None
) -> None:
    """Two trials that differ in a field without effect would be the same trial."""
    base = with_fields(find_recipe("simclr_small")(Path("/s"), Path("/o")), changed)
    assert len(grid_points(find_space("mask_ratio", base).space)) == num_ratios
    full = find_space("mask_full", base).space
    assert [name for name in full if "rho" in name] == ([] if rho is None else [rho])


def test_named_spaces_prepare_their_base() -> None:
    base = find_recipe("simclr_small")(Path("/s"), Path("/o"))
    base = with_fields(base, {"knn.val_shards": "/v", "epochs": 20})
    assert find_space(None, base).space == {}
    assert find_space("mask_full", base).base == base
    assert find_space("mask_ratio", base).base.masks.strategy == "balanced"
    assert find_space("exchange", base).base.masks.strategy == "exchange"
    shuffled = with_fields(base, {"masks.strategy": "shuffled", "heldout.shards": "/h"})
    assert [find_space(name, shuffled).base for name in ("mask_ratio", "mask_full")] == [
        shuffled
    ] * 2
    scaling = find_space("data_scaling", shuffled)
    assert scaling.base.heldout.shards == Path("/h")
    scaling = find_space("data_scaling", base)
    assert (scaling.base.heldout.seen, scaling.base.epoch_steps) == (True, "all")
    ratios = find_space("mask_ratio", base).space["masks.query_ratio"].values
    assert with_fields(base, {"masks.query_ratio": ratios[-1]}).masks.query_ratio == (0.75, 0.75)
    assert (scaling.base.heldout.shards, scaling.scheduler) == (Path("/v"), "none")
    assert scaling.space["epochs"] == Domain("grid", (5, 10, 20))


def test_search_trials_and_their_configurations_follow_from_space_and_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep = small_sweep(OUT)
    assert (sweep.search, sweep.num_trials) == ("grid", 4)
    config = trial_config(sweep.base, 2, sweep.points()[2])
    assert (config.masks.query_ratio, config.optim.lr) == ((0.4, 0.4), 0.01)
    assert (config.out, config.epochs) == (OUT / "trials" / "0002", 4)
    drawn = small_sweep(OUT, parse_space(choice=["fill=mean,blur"]))
    assert (drawn.search, drawn.num_trials) == ("random", 8)
    assert small_sweep(OUT, search="random").search == "random"
    assert small_sweep(OUT, num_trials=4).num_trials == 4
    assert small_sweep(OUT, scheduler="none", grace_epochs=9).scheduler == "none"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"salmask\[optuna\]"):
        small_sweep(OUT, search="optuna", num_trials=3)
