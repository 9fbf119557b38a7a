"""Recipes build and have their published numbers; values out of range are refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from training.config.derived import declared_views
from training.config.fields import dotted
from training.config.file import differences
from training.config.pretrain import PretrainConfig
from training.config.recipes import RECIPES, find_recipe, with_method
from training.methods.registry import METHODS
from training.views.spec import crops_of

HERE = Path("shards")
SMALL = {
    "masks.foreground": "otsu",
    "masks.count": "matched",
    "masks.negative_ratio": [0.7, 1.0],
    "method.object_rho": 3.0,
}
EXCHANGE = {
    "masks.strategy": "exchange",
    "masks.exchange": "swap",
    "method.object_head": "off",
    "method.hard_negatives": 0,
}
NUMBERS: dict[str, dict[str, Any]] = {
    "moco_v2_imagenet100": {
        "encoder.architecture": "resnet50",
        "views.size": 224,
        "views.grid": 7,
        "epochs": 200,
        "batch_size": 256,
        "optim.lr": 0.03,
        "masks.strategy": "balanced",
        "masks.behaviour": "paper",
        "masks.count": "paper",
        "masks.foreground": "std",
        "masks.foreground_threshold": -0.6,
        "masks.query_ratio": [0.05, 0.25],
        "masks.negative_ratio": [0.4, 0.7],
        "method.name": "moco_v2",
        "method.queue_size": 65536,
        "method.key_momentum": 0.999,
        "method.temperature": 0.2,
        "method.rho": 2.0,
        "method.embedding_dim": 128,
        "method.object_head": "off",
        "method.hard_mass": None,
    },
    "simclr_imagenet100": {
        "batch_size": 256,
        "optim.name": "lars",
        "optim.lr": 0.3,
        "optim.warmup_epochs": 10,
        "optim.weight_decay": 1e-4,
        "optim.trust_coefficient": 0.02,
        "optim.lars_clip": True,
        "method.temperature": 0.2,
        "method.embedding_dim": 512,
        "method.head_width": 4096,
        "method.head_batch_norm": True,
        "method.hard_mass": "paper",
        "augment.brightness": 0.8,
        "augment.contrast": 0.8,
        "augment.saturation": 0.8,
        "augment.hue": 0.2,
    },
    **dict.fromkeys(("simclr_small", "small_local", "moco_v2_small"), SMALL | EXCHANGE),
    "demo": SMALL | EXCHANGE | {"masks.probability": 0.6, "views.crop_scale": [0.6, 1.0]},
    "debug": SMALL
    | {"masks.strategy": "none", "method.object_head": "both", "method.hard_negatives": 1},
}


def recipe(name: str) -> PretrainConfig:
    return find_recipe(name)(HERE, Path("out"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_goes_with_every_method(name: str, method: str) -> None:
    config = recipe(name)
    local = [f"local-{index}" for index in range(config.views.local)]
    assert [crop.name for crop in crops_of(declared_views(config))] == ["query", "key", *local]
    for num_ranks in (1, 2):
        config.method.check_batch(config.batch_size, num_ranks)
    other = with_method(name, config, method)
    assert other.method.name == method
    assert other.method.batch_norm_group == (4 if name == "debug" else 32)
    with pytest.raises(InputError, match="unknown method 'swav'"):
        with_method(name, config, "swav")


@pytest.mark.parametrize(("name", "numbers"), NUMBERS.items())
def test_a_recipe_has_its_numbers(name: str, numbers: dict[str, Any]) -> None:
    own = dotted(recipe(name).to_json())
    assert {field: own[field] for field in numbers} == numbers


def test_the_tuned_recipe_differs_by_rate_momentum_and_crops_only() -> None:
    paper, tuned = recipe("moco_v2_imagenet100"), recipe("moco_v2_imagenet100_tuned")
    assert differences(paper.to_json(), tuned.to_json()) == [
        "method.key_momentum: 0.999 -> 0.99",
        "method.key_momentum_end: None -> 0.999",
        "optim.lr: 0.03 -> 0.3",
        "optim.warmup_epochs: 0.0 -> 10",
        "views.crop_scale: [0.2, 1.0] -> [0.08, 1.0]",
    ]


def test_local_crops_cost_a_view_s_pixels_more() -> None:
    whole, local = recipe("simclr_small"), recipe("small_local")
    assert differences(whole.to_json(), local.to_json()) == [
        "views.crop_scale: [0.2, 1.0] -> [0.3, 1.0]",
        "views.local: 0 -> 4",
        "views.local_size: 96 -> 32",
        "views.local_tries: 1 -> 4",
    ]
    sizes = [[view.crop.cut.size for view in declared_views(one)] for one in (whole, local)]
    assert [sum(size**2 for size in of_one) / 64**2 for of_one in sizes] == [2, 3]


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("_baseline")])
def test_a_baseline_differs_by_masks_and_hard_negatives_only(name: str) -> None:
    baseline, masked = recipe(name), recipe(name.removesuffix("_baseline"))
    local = [f"local-{index}" for index in range(masked.views.local)]
    assert baseline.masks.strategy == "none"
    assert [view.name for view in declared_views(baseline)] == ["query", "key", *local]
    if masked.masks.strategy != "exchange":
        assert "negative-key-0" in [view.name for view in declared_views(masked)]
    changed = {line.split(":")[0] for line in differences(masked.to_json(), baseline.to_json())}
    assert changed
    assert changed <= {"masks.strategy", "method.hard_negatives", "method.object_head"}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("seed", -1),
        ("data_fraction", 0.0),
        ("num_workers", 0),
        ("loader_workers", -1),
        ("log_every_steps", 0),
        ("max_failures", -1),
        ("knn.k", 0),
        ("knn.temperature", 0.0),
        ("heldout.bank_size", 0),
        ("checkpoint.keep", 0),
        ("checkpoint.every_steps", -1),
        ("checkpoint.every_minutes", -1.0),
        ("collapse.min_spread", 1.0),
        ("replay.share", 1.0),
        ("replay.keep", 0.0),
        ("anchor.strength", 0.0),
        ("fill", "noise"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, wrong: Any) -> None:  # noqa: ANN401
    part, _, last = name.rpartition(".")
    owner = getattr(recipe("debug"), part) if part else recipe("debug")
    with pytest.raises(InputError, match=f"{name} {wrong}|noise.*high_pass"):
        replace(owner, **{last: wrong})


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(InputError, match="unknown recipe 'big': choose one of simclr_small"):
        find_recipe("big")
