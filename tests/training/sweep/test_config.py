"""What a sweep can be asked for, and what is refused before anything is read or written."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from tests.made_sweeps import small_sweep
from training.sweep.space import parse_space

OUT = Path("/out")
NO_SHARDS = {"knn.val_shards": "none", "heldout.shards": "none"}


def test_search_trials_and_their_configurations_follow_from_space_and_base() -> None:
    sweep = small_sweep(OUT)
    assert (sweep.search, sweep.num_trials, sweep.mode) == ("grid", 4, "max")
    config = sweep.trial_config(2, sweep.points()[2])
    assert (config.masks.query_ratio, config.optim.lr) == ((0.4, 0.4), 0.01)
    assert (config.out, config.epochs) == (OUT / "trials" / "0002", 4)
    drawn = small_sweep(OUT, parse_space(choice=["fill=mean,blur"]))
    assert (drawn.search, drawn.num_trials) == ("random", 8)
    more = small_sweep(OUT, search="random", num_trials=12)
    assert more.points()[:8] == small_sweep(OUT, search="random").points()
    assert more.points() != small_sweep(OUT, search="random", num_trials=12, search_seed=1).points()
    assert small_sweep(OUT, num_trials=4).num_trials == 4
    assert small_sweep(OUT, scheduler="none", grace_epochs=9).scheduler == "none"


HELD_OUT = {"changes": NO_SHARDS, "objective": "heldout_loss"}
SIZES = ["views.size=32,48", "views.grid=4,5"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"space": {}}, "nothing to sweep"),
        ({"changes": NO_SHARDS}, "objective knn: give --knn.val-shards"),
        (HELD_OUT, "heldout_loss: give --heldout.shards"),
        ({"num_trials": 3}, "the grid has 4 points, and --num-trials says 3"),
        ({"grace_epochs": 9}, "--grace-epochs 9 is more than the 4 epochs of a trial"),
        ({"grid": ["out=a,b"]}, "out cannot be swept"),
        ({"grid": ["epochs=0,2"]}, "epochs=0: epochs 0 must be 1 or more"),
        ({"choice": ["fill=mean,noise"]}, "fill=noise"),
        ({"uniform": ["method.key_momentum=0.5..1.5"]}, "key_momentum=1.5"),
        ({"grid": SIZES}, r"views\.size=32, views\.grid=5: views\.size 32 is not divisible"),
        ({"uniform": ["optim.lr=0.1..0.2"], "search": "grid"}, "an interval, of which there is no"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    kinds = {kind: given[kind] for kind in ("grid", "choice", "uniform") if kind in given}
    rest = {name: value for name, value in given.items() if name not in kinds}
    with pytest.raises(InputError, match=message):
        small_sweep(OUT, **({"space": parse_space(**kinds)} if kinds else {}), **rest)


def test_without_optuna_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"salmask\[optuna\]"):
        small_sweep(OUT, search="optuna", num_trials=3)
