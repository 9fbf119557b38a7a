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

Recipe = Callable[[Location, Path], PretrainConfig]

PAPER_MASKS = MaskConfig(foreground="std")
"""The paper's numbers."""
SMALL_MASKS = MaskConfig(strategy="none", count="matched", negative_ratio=(0.7, 1.0))
"""Queries are not masked: masks cost accuracy in short runs (tests/benchmarks/RESULTS.md)."""
OBJECT_HEAD: dict[str, Any] = {"object_head": "both", "object_rho": 3.0, "rho_warmup_epochs": 5}
SMALL: Mapping[str, MethodConfig] = {
    "moco_v2": MoCoConfig(
        temperature=0.2, queue_size=1024, key_momentum=0.996, rho=2.0, **OBJECT_HEAD
    ),
    "simclr": SimCLRConfig(temperature=0.2, rho=2.0, **OBJECT_HEAD),
    "byol": BYOLConfig(),
}
"""Settings of each method for a batch of 64 on a few cores."""
TINY_BATCH: dict[str, Any] = {"batch_norm_group": 4, "rho_warmup_epochs": 1}
TINY: Mapping[str, MethodConfig] = {
    "moco_v2": replace(SMALL["moco_v2"], queue_size=64, **TINY_BATCH),  # type: ignore[call-arg]
    "simclr": replace(SMALL["simclr"], **TINY_BATCH),
    "byol": BYOLConfig(batch_norm_group=4, head_width=256, predictor_width=256),
}
"""The same for a batch of 16."""


def simclr_small(shards: Location, out: Path) -> PretrainConfig:
    """The default: ResNet-18 at 64 px by SimCLR, for thousands of images and a few CPU cores.

    Momentum SGD, since the batch is small. An object head takes the hard negatives and the queries
    on other backgrounds.
    """
    return PretrainConfig(
        shards=shards,
        out=out,
        epochs=20,
        batch_size=64,
        encoder=EncoderConfig(architecture="resnet18", stem="small"),
        views=ViewConfig(size=64, grid=8),
        masks=SMALL_MASKS,
        method=SMALL["simclr"],
        optim=OptimConfig(lr=0.03, warmup_epochs=1),
        knn=KnnConfig(every_epochs=5),
    )


def moco_v2_small(shards: Location, out: Path) -> PretrainConfig:
    """The same network and views by MoCo v2."""
    return replace(
        simclr_small(shards, out),
        method=SMALL["moco_v2"],
        optim=OptimConfig(lr=0.01, warmup_epochs=2),
    )


def moco_v2_imagenet100(shards: Location, out: Path) -> PretrainConfig:
    """The paper's settings: ResNet-50 at 224 px, batch 256, 200 epochs, queue of 65536."""
    return PretrainConfig(shards=shards, out=out, masks=PAPER_MASKS)


def moco_v2_imagenet100_tuned(shards: Location, out: Path) -> PretrainConfig:
    """The paper's masks over a tuned baseline: solo-learn's rate, key momentum and crops.

    lr 0.3 for a batch of 256, ten epochs of warm-up, key momentum rising from 0.99 to 0.999, crops
    from 8 % of the picture (solo-learn's MoCo v2+ for ImageNet-100, arXiv 2108.01775).
    """
    paper = moco_v2_imagenet100(shards, out)
    return replace(
        paper,
        views=ViewConfig(crop_scale=(0.08, 1.0)),
        method=MoCoConfig(key_momentum=0.99, key_momentum_end=0.999),
        optim=OptimConfig(lr=0.3, warmup_epochs=10),
    )


def simclr_imagenet100(shards: Location, out: Path) -> PretrainConfig:
    """ResNet-50 at 224 px by SimCLR, for which the paper publishes no settings.

    LARS, rate, projection and temperature are solo-learn's for ImageNet-100 (arXiv 2108.01775): lr
    0.3 for a batch of 256, trust coefficient 0.02, clipped, weight decay 1e-4, a head of 4096 to
    512 with batch norm. The hard negatives weigh as against the paper's queue.
    """
    return PretrainConfig(
        shards=shards,
        out=out,
        masks=PAPER_MASKS,
        method=SimCLRConfig(
            embedding_dim=512, head_width=4096, head_batch_norm=True, hard_mass="paper"
        ),
        augment=AugmentConfig(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2),
        optim=OptimConfig(
            name="lars",
            lr=0.3,
            weight_decay=1e-4,
            warmup_epochs=10,
            trust_coefficient=0.02,
            lars_clip=True,
        ),
    )


def without_negatives(method: MethodConfig) -> MethodConfig:
    """The method's plain loss: no hard negatives, no object head."""
    if not isinstance(method, HardNegativeConfig):
        return method
    return replace(method, hard_negatives=0, object_head="off")


def without_masks(recipe: Recipe) -> Recipe:
    """The baseline of a recipe: no view is masked, and there are no hard negatives."""

    def baseline(shards: Location, out: Path) -> PretrainConfig:
        config = recipe(shards, out)
        return replace(
            config,
            masks=replace(config.masks, strategy="none"),
            method=without_negatives(config.method),
        )

    return baseline


def demo(shards: Location, out: Path) -> PretrainConfig:
    """Minutes of one core: a network of 0.4 million parameters at 32 px."""
    small = simclr_small(shards, out)
    return replace(
        small,
        epochs=34,
        encoder=EncoderConfig(architecture="timm:test_resnet"),
        views=ViewConfig(size=32, grid=4),
        knn=KnnConfig(every_epochs=34),
        precision="fp32",
    )


def debug(shards: Location, out: Path) -> PretrainConfig:
    """Seconds: two epochs of tiny views, to see that everything fits together."""
    small = simclr_small(shards, out)
    return replace(
        small,
        epochs=2,
        batch_size=16,
        views=ViewConfig(size=32, grid=4),
        method=TINY["simclr"],
        optim=OptimConfig(lr=0.03, warmup_epochs=0.2),
        knn=replace(small.knn, every_epochs=1),
        log_every_steps=1,
    )


METHODS_OF: dict[str, Mapping[str, MethodConfig]] = {
    "moco_v2_small": SMALL,
    "simclr_small": SMALL,
    "demo": SMALL,
    "debug": TINY,
}
"""What --method starts from where a recipe has settings for other methods than its own."""


def with_method(recipe: str, config: PretrainConfig, method: str) -> PretrainConfig:
    """The configuration of a recipe with another method.

    Raises:
        InputError: an unknown method.
    """
    if method == config.method.name:
        return config
    settings = METHODS_OF.get(recipe, {}).get(method) or config.method.renamed(method)
    return replace(config, method=settings)


RECIPES: dict[str, Recipe] = {
    "simclr_small": simclr_small,
    "simclr_small_baseline": without_masks(simclr_small),
    "moco_v2_small": moco_v2_small,
    "moco_v2_small_baseline": without_masks(moco_v2_small),
    "moco_v2_imagenet100": moco_v2_imagenet100,
    "moco_v2_imagenet100_baseline": without_masks(moco_v2_imagenet100),
    "moco_v2_imagenet100_tuned": moco_v2_imagenet100_tuned,
    "moco_v2_imagenet100_tuned_baseline": without_masks(moco_v2_imagenet100_tuned),
    "simclr_imagenet100": simclr_imagenet100,
    "simclr_imagenet100_baseline": without_masks(simclr_imagenet100),
    "demo": demo,
    "demo_baseline": without_masks(demo),
    "debug": debug,
}


def find_recipe(name: str) -> Recipe:
    """Looks a recipe up; an unknown name raises ``InputError`` with the known ones."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
