"""Named starting points. Any field can still be changed from the command line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.errors import InputError
from training.config import KnnConfig, OptimConfig, PretrainConfig
from training.encoder import EncoderConfig
from training.masks import MaskConfig
from training.methods.moco import MoCoConfig
from training.views import ViewConfig


def moco_v2_small(shards: Path, out: Path) -> PretrainConfig:
    """ResNet-18 at 64 px: learns on thousands of images and a few CPU cores."""
    return PretrainConfig(
        shards=shards,
        out=out,
        epochs=20,
        batch_size=64,
        encoder=EncoderConfig(architecture="resnet18", stem="small"),
        views=ViewConfig(size=64, grid=8),
        masks=MaskConfig(),
        moco=MoCoConfig(
            temperature=0.1, queue_size=1024, key_momentum=0.996, rho=1.0, rho_warmup_epochs=5
        ),
        optim=OptimConfig(lr=0.01, warmup_epochs=2),
        knn=KnnConfig(every_epochs=5),
    )


def demo(shards: Path, out: Path) -> PretrainConfig:
    """Minutes on two cores: the small recipe, shorter and without hard negatives."""
    small = moco_v2_small(shards, out)
    return replace(small, epochs=15, moco=replace(small.moco, hard_negatives=0))


def moco_v2(shards: Path, out: Path) -> PretrainConfig:
    """The paper's settings: ResNet-50 at 224 px, batch 256, 200 epochs, queue of 65536."""
    return PretrainConfig(shards=shards, out=out)


RECIPES: dict[str, Callable[[Path, Path], PretrainConfig]] = {
    "moco_v2_small": moco_v2_small,
    "moco_v2": moco_v2,
    "demo": demo,
}


def find_recipe(name: str) -> Callable[[Path, Path], PretrainConfig]:
    """Looks a recipe up; an unknown name raises ``InputError`` with the known ones."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
