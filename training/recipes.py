"""Named starting points. Any field can still be changed from the command line."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.errors import InputError
from pipeline.stores.storage import Location
from training.augment import AugmentConfig
from training.config import KnnConfig, PretrainConfig
from training.data.views import ViewConfig
from training.encoders.encoder import EncoderConfig
from training.masking.config import MaskConfig
from training.methods.byol import BYOLConfig
from training.methods.hard_negatives import HardNegativeConfig
from training.methods.interface import MethodConfig
from training.methods.moco import MoCoConfig
from training.methods.simclr import SimCLRConfig
from training.optim import OptimConfig

Recipe = Callable[[Location, Path], PretrainConfig]

PAPER_MASKS = MaskConfig(foreground="std")
"""The paper's numbers."""
SMALL: Mapping[str, MethodConfig] = {
    "moco_v2": MoCoConfig(
        temperature=0.1, queue_size=1024, key_momentum=0.996, rho=1.0, rho_warmup_epochs=5
    ),
    "simclr": SimCLRConfig(temperature=0.2, rho=1.0, rho_warmup_epochs=5),
    "byol": BYOLConfig(),
}
"""Settings of each method for a batch of 64 on a few cores."""
TINY: Mapping[str, MethodConfig] = {
    "moco_v2": MoCoConfig(
        temperature=0.1,
        queue_size=64,
        key_momentum=0.996,
        batch_norm_group=4,
        rho=1.0,
        rho_warmup_epochs=1,
    ),
    "simclr": SimCLRConfig(batch_norm_group=4, rho=1.0, rho_warmup_epochs=1),
    "byol": BYOLConfig(batch_norm_group=4, head_width=256, predictor_width=256),
}
"""The same for a batch of 16."""


def moco_v2_small(shards: Location, out: Path) -> PretrainConfig:
    """ResNet-18 at 64 px: learns on thousands of images and a few CPU cores."""
    return PretrainConfig(
        shards=shards,
        out=out,
        epochs=20,
        batch_size=64,
        encoder=EncoderConfig(architecture="resnet18", stem="small"),
        views=ViewConfig(size=64, grid=8),
        masks=MaskConfig(),
        method=SMALL["moco_v2"],
        optim=OptimConfig(lr=0.01, warmup_epochs=2),
        knn=KnnConfig(every_epochs=5),
    )


def simclr_small(shards: Location, out: Path) -> PretrainConfig:
    """The same network and views with SimCLR; momentum SGD, since the batch is small."""
    return replace(
        moco_v2_small(shards, out),
        method=SMALL["simclr"],
        optim=OptimConfig(lr=0.03, warmup_epochs=1),
    )


def moco_v2_imagenet100(shards: Location, out: Path) -> PretrainConfig:
    """The paper's settings: ResNet-50 at 224 px, batch 256, 200 epochs, queue of 65536."""
    return PretrainConfig(shards=shards, out=out, masks=PAPER_MASKS)


def simclr_imagenet100(shards: Location, out: Path) -> PretrainConfig:
    """ResNet-50 at 224 px by SimCLR, for which the paper publishes no settings: ours.

    The rate is 0.3 for a batch of 256 and grows with it; a larger batch is better.
    """
    return PretrainConfig(
        shards=shards,
        out=out,
        masks=PAPER_MASKS,
        method=SimCLRConfig(),
        augment=AugmentConfig(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2),
        optim=OptimConfig(name="lars", lr=0.3, weight_decay=1e-6, warmup_epochs=10),
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
    """Minutes on two cores: the small recipe, shorter and without hard negatives."""
    small = moco_v2_small(shards, out)
    return replace(small, epochs=15, method=without_negatives(small.method))


def debug(shards: Location, out: Path) -> PretrainConfig:
    """Seconds: two epochs of tiny views, to see that everything fits together."""
    small = moco_v2_small(shards, out)
    return replace(
        small,
        epochs=2,
        batch_size=16,
        views=ViewConfig(size=32, grid=4),
        method=TINY["moco_v2"],
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
    "moco_v2_small": moco_v2_small,
    "moco_v2_small_baseline": without_masks(moco_v2_small),
    "simclr_small": simclr_small,
    "simclr_small_baseline": without_masks(simclr_small),
    "moco_v2_imagenet100": moco_v2_imagenet100,
    "moco_v2_imagenet100_baseline": without_masks(moco_v2_imagenet100),
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
