"""Named spaces: each makes a sweep whose every trial can be configured."""

from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from training.config.fields import with_fields
from training.config.recipes import find_recipe
from training.sweep.config import make_sweep
from training.sweep.spaces import SPACES, find_space, prepared


@pytest.mark.parametrize("method", ["moco_v2", "simclr", "byol"])
@pytest.mark.parametrize("name", SPACES)
def test_every_trial_of_every_space_can_be(name: str, method: str) -> None:
    base = find_recipe("moco_v2_small")(Path("/s"), Path("/o"))
    base = prepared(name, with_fields(base, {"knn.val_shards": "/v", "method": method}))
    named = find_space(name, base)
    sweep = make_sweep(
        base=base, space=named.space, search=named.search, num_trials=named.num_trials
    )
    assert sweep.num_trials >= 8
    configs = [sweep.trial_config(n, point) for n, point in enumerate(sweep.points())]
    assert len({str(config) for config in configs}) == sweep.num_trials
    rho = "rho" in " ".join(named.space)
    assert rho == (name == "mask_full" and method != "byol")


def test_data_scaling_measures_the_held_out_loss_and_stops_nobody() -> None:
    base = with_fields(
        find_recipe("debug")(Path("/s"), Path("/o")), {"knn.val_shards": "/v", "epochs": 20}
    )
    assert prepared("mask_full", base) == base
    assert prepared("data_scaling", base).heldout.shards == Path("/v")
    given = with_fields(base, {"heldout.shards": "/h"})
    assert prepared("data_scaling", given) == given
    named = find_space("data_scaling", base)
    assert named.scheduler == "none"
    assert getattr(named.space["epochs"], "values") == (5, 10, 20)  # noqa: B009


def test_masking_ratios_are_of_masked_queries() -> None:
    base = find_recipe("simclr_small")(Path("/s"), Path("/o"))
    assert prepared("mask_ratio", base).masks.strategy == "balanced"
    shuffled = with_fields(base, {"masks.strategy": "shuffled"})
    assert prepared("mask_ratio", shuffled) == shuffled


def test_an_unknown_space_is_refused_with_the_known() -> None:
    base = find_recipe("debug")(Path("/s"), Path("/o"))
    with pytest.raises(InputError, match="unknown space 'masks': choose one of mask_ratio"):
        find_space("masks", base)
