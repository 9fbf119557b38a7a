"""Recipes build, unknown names and values out of range are refused with what is known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from training.config.derived import declared_views, stream_config
from training.config.file import check_run_folder, differences
from training.config.pretrain import PretrainConfig
from training.config.recipes import RECIPES, find_recipe, with_method
from training.config.settings import KnnConfig, OptimConfig
from training.core.fields import with_fields
from training.methods.moco.settings import MoCoConfig
from training.methods.registry import METHODS
from training.methods.settings import HardNegativeConfig
from training.methods.simclr.settings import SimCLRConfig
from training.views.settings import ViewConfig
from training.views.spec import crops_of

HERE = Path("shards")


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_builds_and_fits_itself(name: str) -> None:
    config = find_recipe(name)(HERE, Path("out"))
    config.method.check_batch(config.batch_size, num_ranks=1)
    config.method.check_batch(config.batch_size, num_ranks=2)
    assert [crop.name for crop in crops_of(stream_config(config).views)] == ["query", "key"]
    assert differences(config.to_json(), config.to_json()) == []


def test_the_paper_s_recipe_has_the_paper_s_numbers() -> None:
    config = find_recipe("moco_v2_imagenet100")(HERE, Path("out"))
    method, masks = config.method, config.masks
    assert isinstance(method, MoCoConfig)
    assert (masks.strategy, masks.behaviour, masks.count) == ("balanced", "paper", "paper")
    assert (masks.foreground, masks.foreground_threshold) == ("std", -0.6)
    assert (config.encoder.architecture, config.views.size, config.views.grid) == (
        "resnet50",
        224,
        7,
    )
    assert (config.epochs, config.batch_size, config.optim.lr) == (200, 256, 0.03)
    assert (method.queue_size, method.key_momentum) == (65536, 0.999)
    assert (method.temperature, method.rho, method.embedding_dim) == (0.2, 2.0, 128)
    assert (method.object_head, method.hard_mass) == ("off", None)
    assert (config.masks.query_ratio, config.masks.negative_ratio) == ((0.05, 0.25), (0.4, 0.7))


def test_simclr_s_recipe_has_the_numbers_to_start_from() -> None:
    config = find_recipe("simclr_imagenet100")(HERE, Path("out"))
    method, optim, augment = config.method, config.optim, config.augment
    assert isinstance(method, SimCLRConfig)
    assert (optim.name, optim.lr, optim.warmup_epochs, optim.weight_decay) == (
        "lars",
        0.3 * config.batch_size / 256,
        10,
        1e-4,
    )
    assert (optim.trust_coefficient, optim.lars_clip) == (0.02, True)
    assert (method.temperature, method.embedding_dim, method.head_width) == (0.2, 512, 4096)
    assert (method.head_batch_norm, method.hard_mass) == (True, "paper")
    jitter = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    assert jitter == (0.8, 0.8, 0.8, 0.2)


def test_the_tuned_recipe_differs_by_rate_momentum_and_crops_only() -> None:
    paper, tuned = (
        find_recipe(name)(HERE, Path("out")).to_json()
        for name in ("moco_v2_imagenet100", "moco_v2_imagenet100_tuned")
    )
    assert differences(paper, tuned) == [
        "method.key_momentum: 0.999 -> 0.99",
        "method.key_momentum_end: None -> 0.999",
        "optim.lr: 0.03 -> 0.3",
        "optim.warmup_epochs: 0.0 -> 10",
        "views.crop_scale: [0.2, 1.0] -> [0.08, 1.0]",
    ]


@pytest.mark.parametrize("name", ["simclr_small", "moco_v2_small", "demo", "debug"])
def test_the_small_recipes_are_calibrated(name: str) -> None:
    config = find_recipe(name)(HERE, Path("out"))
    masks, method = config.masks, config.method
    assert isinstance(method, HardNegativeConfig)
    assert (masks.strategy, masks.foreground, masks.count) == ("none", "otsu", "matched")
    assert (masks.negative_ratio, method.object_head) == ((0.7, 1.0), "both")
    assert (method.object_rho, method.hard_negatives) == (3.0, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_goes_with_every_method(recipe: str, method: str) -> None:
    config = with_method(recipe, find_recipe(recipe)(HERE, Path("out")), method)
    assert config.method.name == method
    if recipe == "debug":
        assert config.method.batch_norm_group == 4
    with pytest.raises(InputError, match="unknown method 'swav'"):
        with_method(recipe, config, "swav")


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("_baseline")])
def test_a_baseline_differs_by_masks_and_hard_negatives_only(name: str) -> None:
    baseline = find_recipe(name)(HERE, Path("out"))
    masked = find_recipe(name.removesuffix("_baseline"))(HERE, Path("out"))
    assert baseline.masks.strategy == "none"
    assert [view.name for view in declared_views(baseline)] == ["query", "key"]
    assert "negative-key-0" in [view.name for view in declared_views(masked)]
    changed = [line.split(":")[0] for line in differences(masked.to_json(), baseline.to_json())]
    assert set(changed) <= {"masks.strategy", "method.hard_negatives", "method.object_head"}


def test_unknown_recipes_and_fills_list_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown recipe 'big': choose one of simclr_small"):
        find_recipe("big")
    with pytest.raises(InputError, match="high_pass"):
        PretrainConfig(shards=HERE, out=HERE, fill="noise")
    with pytest.raises(InputError, match="unknown method 'swav': choose one of byol, moco_v2"):
        with_fields(PretrainConfig(shards=HERE, out=HERE), {"method": "swav"})


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


def test_a_run_of_an_earlier_version_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"method": "moco_v2", "moco": {"rho": 2.0}}')
    config = find_recipe("moco_v2_small")(HERE, tmp_path)
    with pytest.raises(InputError, match=r"a run of another version.*choose another --out"):
        check_run_folder(tmp_path, config, "digest")
