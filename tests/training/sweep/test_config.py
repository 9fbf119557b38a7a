"""What a sweep can be asked for, and what is refused before anything is read or written."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from tests.training.sweep.small_sweeps import GRID, small_sweep
from training.sweep.space import parse_space

OUT = Path("/out")


def test_a_trial_is_the_base_with_its_point_and_a_folder_of_its_own() -> None:
    sweep = small_sweep(OUT)
    assert (sweep.search, sweep.num_trials, sweep.mode) == ("grid", 4, "max")
    config = sweep.trial_config(2, sweep.points()[2])
    assert config.masks.query_ratio == (0.4, 0.4)
    assert config.optim.lr == 0.01
    assert config.out == OUT / "trials" / "0002"
    assert config.epochs == 4


def test_the_search_follows_from_the_space() -> None:
    assert small_sweep(OUT, parse_space(choice=["fill=mean,blur"])).search == "random"
    assert small_sweep(OUT, search="random", num_trials=3).num_trials == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"space": {}}, "nothing to sweep"),
        ({"changes": {"knn.val_shards": "none"}}, "no trial would report the kNN accuracy"),
        ({"objective": "heldout_loss"}, "no trial would report the held-out loss"),
        ({"objective": "beauty"}, "unknown objective 'beauty': choose one of knn, heldout_loss"),
        ({"num_trials": 0}, "--num-trials 0 must be 1 or more"),
        ({"grace_epochs": 0}, "--grace-epochs 0 must be 1 or more"),
        ({"grace_epochs": 9}, "--grace-epochs 9 is more than the 4 epochs of a trial"),
        ({"reduction_factor": 1}, "--reduction-factor 1 2 or more"),
        ({"space": parse_space(grid=["out=a,b"])}, "out cannot be swept"),
        ({"space": parse_space(grid=["epochs=0,2"])}, "epochs=0: epochs 0 must be 1 or more"),
        ({"space": parse_space(choice=["fill=mean,noise"])}, "fill=noise"),
        (
            {"space": parse_space(grid=["views.size=32,48", "views.grid=4,5"])},
            r"views\.grid=5: views\.size 32 is not divisible",
        ),
        ({"space": parse_space(uniform=["optim.lr=0.1..0.2"]), "search": "grid"}, "no grid"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_sweep(OUT, **given)


def test_a_combination_that_does_not_fit_is_named_with_all_of_its_values() -> None:
    space = parse_space(grid=["masks.query_ratio.0=0.1,0.24", "masks.query_ratio.1=0.12,0.2"])
    with pytest.raises(InputError, match=r"query_ratio\.0=0\.24"):
        small_sweep(OUT, space)


def test_without_optuna_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"salmask\[optuna\]"):
        small_sweep(OUT, search="optuna", num_trials=3)


def test_no_scheduler_has_no_grace_to_be_wrong() -> None:
    assert small_sweep(OUT, GRID, scheduler="none", grace_epochs=9).scheduler == "none"
