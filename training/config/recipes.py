"""Named starting points. Any field can still be changed from the command line."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.storage.storage import Location
from training.config.pretrain import PretrainConfig
from training.config.settings import KnnConfig, OptimConfig
from training.encoders.settings import EncoderConfig
from training.methods.byol.settings import BYOLConfig
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import HardNegativeConfig, MethodConfig
from training.methods.simclr.settings import SimCLRConfig
from training.views.settings import AugmentConfig, MaskConfig, ViewConfig

Settings = dict[str, Any]
"""Fields of a `PretrainConfig` that are not its defaults, without shards and out."""

PAPER_MASKS = MaskConfig(foreground="std")
"""The paper's numbers."""
SMALL_MASKS = MaskConfig(strategy="none", count="matched", negative_ratio=(0.7, 1.0))
"""Queries are not masked: masks cost accuracy in short runs (tests/benchmarks/RESULTS.md)."""
EXCHANGE = replace(SMALL_MASKS, strategy="exchange")
"""Some queries stand on another image's background: what helps most, at no cost (RESULTS.md)."""
NOT_HARD: Settings = {"hard_negatives": 0, "object_rho": 3.0, "rho_warmup_epochs": 5}
"""No hard negatives; their weight in an object head, where they are turned on."""
SMALL: Mapping[str, MethodConfig] = {
    "moco_v2": MoCoConfig(temperature=0.2, queue_size=1024, key_momentum=0.996, **NOT_HARD),
    "simclr": SimCLRConfig(temperature=0.2, **NOT_HARD),
    "byol": BYOLConfig(),
}
"""Settings of each method for a batch of 64 on a few cores."""
BOTH: Settings = {"hard_negatives": 1, "object_head": "both"}
TINY_BATCH: Settings = {"batch_norm_group": 4, "rho_warmup_epochs": 1, **BOTH}
TINY: Mapping[str, MethodConfig] = {
    "moco_v2": replace(SMALL["moco_v2"], queue_size=64, **TINY_BATCH),  # type: ignore[call-arg]
    "simclr": replace(SMALL["simclr"], **TINY_BATCH),
    "byol": BYOLConfig(batch_norm_group=4, head_width=256, predictor_width=256),
}
"""The same for a batch of 16."""
AUTO = "auto"
"""The recipe of `training.config.auto`, which looks at the images."""
METHODS_OF = {
    **dict.fromkeys(("moco_v2_small", "simclr_small", "small_local", "demo", AUTO), SMALL),
    "debug": TINY,
}
"""What --method starts from where a recipe has settings for other methods than its own."""

# ResNet-18 at 64 px for thousands of images and a few cores. SGD, since the batch is small.
SIMCLR_SMALL: Settings = {
    "epochs": 20,
    "batch_size": 64,
    "encoder": EncoderConfig(architecture="resnet18", stem="small"),
    "views": ViewConfig(size=64, grid=8),
    "masks": EXCHANGE,
    "method": SMALL["simclr"],
    "optim": OptimConfig(lr=0.03, warmup_epochs=1),
    "knn": KnnConfig(every_epochs=5),
}
# Local crops as for networks of a few million parameters (arXiv 2210.02808): scales and weight are
# theirs, 4 crops of half a view's side instead of 6 of 0.57; further draws for the object's sake.
SMALL_LOCAL = SIMCLR_SMALL | {
    "views": ViewConfig(
        size=64, grid=8, crop_scale=(0.3, 1.0), local=4, local_size=32, local_tries=4
    ),
}
MOCO_V2_SMALL = SIMCLR_SMALL | {
    "method": SMALL["moco_v2"],
    "optim": OptimConfig(lr=0.01, warmup_epochs=2),
}
# The paper's settings: ResNet-50 at 224 px, batch 256, 200 epochs, queue of 65536.
MOCO_V2_IMAGENET100: Settings = {"masks": PAPER_MASKS}
# The paper's masks with the rate, key momentum and crops of solo-learn's MoCo v2+ for ImageNet-100
# (arXiv 2108.01775).
MOCO_V2_IMAGENET100_TUNED = MOCO_V2_IMAGENET100 | {
    "views": ViewConfig(crop_scale=(0.08, 1.0)),
    "method": MoCoConfig(key_momentum=0.99, key_momentum_end=0.999),
    "optim": OptimConfig(lr=0.3, warmup_epochs=10),
}
# The paper publishes no settings for SimCLR. LARS, rate, projection and temperature are those of
# solo-learn for ImageNet-100 (arXiv 2108.01775), for a batch of 256. The hard negatives weigh as
# against the paper's queue.
SIMCLR_IMAGENET100: Settings = {
    "masks": PAPER_MASKS,
    "method": SimCLRConfig(
        embedding_dim=512, head_width=4096, head_batch_norm=True, hard_mass="paper"
    ),
    "augment": AugmentConfig(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2),
    "optim": OptimConfig(
        name="lars",
        lr=0.3,
        weight_decay=1e-4,
        warmup_epochs=10,
        trust_coefficient=0.02,
        lars_clip=True,
    ),
}
# Minutes of one core: a network of 0.4 million parameters at 32 px. Crops and share of exchanged
# queries are the best that were tried on such pictures, the crops for the baseline.
DEMO = SIMCLR_SMALL | {
    "epochs": 32,
    "encoder": EncoderConfig(architecture="timm:test_resnet"),
    "views": ViewConfig(size=32, grid=4, crop_scale=(0.6, 1.0)),
    "masks": replace(EXCHANGE, probability=0.6),
    "knn": KnnConfig(every_epochs=32),
    "precision": "fp32",
}
# Seconds: two epochs of tiny views, to see that everything fits together.
DEBUG = SIMCLR_SMALL | {
    "epochs": 2,
    "batch_size": 16,
    "views": ViewConfig(size=32, grid=4),
    "masks": SMALL_MASKS,
    "method": TINY["simclr"],
    "optim": OptimConfig(lr=0.03, warmup_epochs=0.2),
    "knn": KnnConfig(every_epochs=1),
    "log_every_steps": 1,
}


def without_masks(recipe: Settings) -> Settings:
    """The baseline of a recipe: no view is masked, no hard negatives, no object head."""
    method = recipe.get("method", MoCoConfig())
    if isinstance(method, HardNegativeConfig):
        method = replace(method, hard_negatives=0, object_head="off")
    return recipe | {"masks": replace(recipe["masks"], strategy="none"), "method": method}


MASKED = {
    "simclr_small": SIMCLR_SMALL,
    "small_local": SMALL_LOCAL,
    "moco_v2_small": MOCO_V2_SMALL,
    "moco_v2_imagenet100": MOCO_V2_IMAGENET100,
    "moco_v2_imagenet100_tuned": MOCO_V2_IMAGENET100_TUNED,
    "simclr_imagenet100": SIMCLR_IMAGENET100,
    "demo": DEMO,
}
RECIPES: dict[str, Settings] = {
    name + end: made(recipe)
    for name, recipe in MASKED.items()
    for end, made in (("", dict), ("_baseline", without_masks))
} | {"debug": DEBUG}


def find_recipe(name: str) -> Callable[[Location, Path], PretrainConfig]:
    """Looks a recipe up: a function of shards and out.

    Raises:
        InputError: an unknown name; lists the known ones.
    """
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}: choose one of {', '.join([*RECIPES, AUTO])}")
    return lambda shards, out: PretrainConfig(shards=shards, out=out, **RECIPES[name])


def with_method(recipe: str, config: PretrainConfig, method: str) -> PretrainConfig:
    """The configuration of a recipe with another method.

    Raises:
        InputError: an unknown method.
    """
    if method == config.method.name:
        return config
    settings = METHODS_OF.get(recipe, {}).get(method) or config.method.renamed(method)
    if recipe == AUTO:
        settings = replace(settings, batch_norm_group=config.method.batch_norm_group)
    return replace(config, method=settings)


debug = find_recipe("debug")
