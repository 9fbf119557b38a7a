"""A pretraining run of seconds, for tests that need one."""

from dataclasses import replace
from pathlib import Path

from training.checkpoint import CheckpointConfig
from training.config import KnnConfig, PretrainConfig
from training.encoder import EncoderConfig
from training.methods.moco import MoCoConfig
from training.optim import OptimConfig
from training.views import ViewConfig


def small_run(shards: Path, out: Path, **changes: object) -> PretrainConfig:
    """Two epochs at 32 px, with a kNN check on the labelled shards ``val`` beside ``shards``."""
    config = PretrainConfig(
        shards=shards,
        out=out,
        epochs=2,
        batch_size=8,
        encoder=EncoderConfig(architecture="resnet18", stem="small"),
        views=ViewConfig(size=32, grid=4),
        moco=MoCoConfig(queue_size=64, temperature=0.1, batch_norm_group=4, rho_warmup_epochs=1),
        optim=OptimConfig(lr=0.01),
        knn=KnnConfig(val_shards=shards.parent / "val", every_epochs=1, k=5),
        checkpoint=CheckpointConfig(keep=8),
        log_every_steps=2,
    )
    return replace(config, **changes)  # type: ignore[arg-type]
