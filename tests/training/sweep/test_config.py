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


def test_a_trial_is_the_base_with_its_point_and_a_folder_of_its_own() -> None:
    sweep = small_sweep(OUT)
    assert (sweep.search, sweep.num_trials, sweep.mode) == ("grid", 4, "max")
    config = sweep.trial_config(2, sweep.points()[2])
    assert (config.masks.query_ratio, config.optim.lr) == ((0.4, 0.4), 0.01)
    assert (config.out, config.epochs) == (OUT / "trials" / "0002", 4)


def test_search_and_number_of_trials_follow_from_the_space() -> None:
    drawn = small_sweep(OUT, parse_space(choice=["fill=mean,blur"]))
    assert (drawn.search, drawn.num_trials) == ("random", 8)
    more = small_sweep(OUT, search="random", num_trials=12)
    assert more.points()[:8] == small_sweep(OUT, search="random").points()
    assert small_sweep(OUT, num_trials=4).num_trials == 4
    assert small_sweep(OUT, scheduler="none", grace_epochs=9).scheduler == "none"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"space": {}}, "nothing to sweep"),
        ({"changes": NO_SHARDS}, "objective knn: give --knn.val-shards"),
        (
            {"changes": NO_SHARDS, "objective": "heldout_loss"},
            "heldout_loss: give --heldout.shards",
        ),
        ({"num_trials": 3}, "the grid has 4 points, and --num-trials says 3"),
        ({"grace_epochs": 9}, "--grace-epochs 9 is more than the 4 epochs of a trial"),
        ({"space": parse_space(grid=["out=a,b"])}, "out cannot be swept"),
        ({"space": parse_space(grid=["epochs=0,2"])}, "epochs=0: epochs 0 must be 1 or more"),
        ({"space": parse_space(choice=["fill=mean,noise"])}, "fill=noise"),
        ({"space": parse_space(uniform=["method.key_momentum=0.5..1.5"])}, "key_momentum=1.5"),
        (
            {"space": parse_space(grid=["views.size=32,48", "views.grid=4,5"])},
            r"views\.size=32, views\.grid=5: views\.size 32 is not divisible",
        ),
        (
            {"space": parse_space(uniform=["optim.lr=0.1..0.2"]), "search": "grid"},
            "optim.lr is an interval, of which there is no grid",
        ),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_sweep(OUT, **given)


def test_without_optuna_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"salmask\[optuna\]"):
        small_sweep(OUT, search="optuna", num_trials=3)
