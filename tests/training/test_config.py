"""Recipes build, unknown names and values out of range are refused with what is known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from training.config import KnnConfig, PretrainConfig, differences
from training.optim import OptimConfig
from training.recipes import RECIPES, find_recipe
from training.views import ViewConfig

HERE = Path("shards")


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_builds_and_fits_itself(name: str) -> None:
    config = find_recipe(name)(HERE, Path("out"))
    config.moco.check_batch(config.batch_size, num_ranks=1)
    config.moco.check_batch(config.batch_size, num_ranks=2)
    assert differences(config.to_json(), config.to_json()) == []


def test_the_paper_s_recipe_has_the_paper_s_numbers() -> None:
    config = find_recipe("moco_v2")(HERE, Path("out"))
    assert (config.encoder.architecture, config.views.size, config.views.grid) == (
        "resnet50",
        224,
        7,
    )
    assert (config.epochs, config.batch_size, config.optim.lr) == (200, 256, 0.03)
    assert (config.moco.queue_size, config.moco.key_momentum) == (65536, 0.999)
    assert (config.moco.temperature, config.moco.rho, config.moco.embedding_dim) == (0.2, 2.0, 128)
    assert (config.masks.query_ratio, config.masks.negative_ratio) == ((0.05, 0.25), (0.4, 0.7))


def test_unknown_recipes_and_fills_list_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown recipe 'big': choose one of moco_v2_small"):
        find_recipe("big")
    with pytest.raises(InputError, match="high_pass"):
        PretrainConfig(shards=HERE, out=HERE, fill="noise")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"batch_size": 1}, "batch_size 1"),
        ({"num_workers": 0}, "num_workers 0"),
        ({"loader_workers": -1}, "loader_workers -1"),
        ({"log_every_steps": 0}, "log_every_steps"),
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        PretrainConfig(shards=HERE, out=HERE, **changes)


def test_nested_values_out_of_range_are_named() -> None:
    with pytest.raises(InputError, match=r"optim\.lr"):
        OptimConfig(lr=0)
    with pytest.raises(InputError, match=r"knn\.k"):
        KnnConfig(k=0)


def test_differences_name_what_changes_the_weights_and_nothing_else() -> None:
    old = PretrainConfig(shards=HERE, out=HERE)
    new = replace(
        old,
        shards=Path("moved"),
        num_workers=4,
        knn=KnnConfig(every_epochs=1),
        seed=1,
        views=ViewConfig(size=448),
    )
    assert differences(old.to_json(), new.to_json()) == ["seed: 0 -> 1", "views.size: 224 -> 448"]
