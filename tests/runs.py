"""A pretraining run of seconds, for tests that need one, and what it leaves."""

from dataclasses import replace
from pathlib import Path

import torch

from training.config.pretrain import PretrainConfig
from training.config.settings import CheckpointConfig, KnnConfig, OptimConfig
from training.core.checkpoint import CheckpointStore
from training.core.context import LocalContext
from training.encoders.settings import EncoderConfig
from training.engine.local import launch
from training.engine.result import RunResult
from training.methods.moco.settings import MoCoConfig
from training.record.metrics import TIMINGS, read_metrics
from training.views.settings import ViewConfig

EVALUATED = {
    "knn",
    "object_sensitivity",
    "checked_instance_accuracy",
    "checked_embedding_spread",
    "message",
}
"""Of the network in evaluation mode: its running statistics depend on the number of ranks."""

NETWORK, NUM_FEATURES = "timm:test_resnet", 96
"""Small: a run takes most of its time to measure and to write its network."""
TORCHVISIONS = EncoderConfig(architecture="mobilenet_v3_small")
"""Of a run in a process that would have to import timm, which takes seconds, or for `scda`."""


def small_run(shards: Path, out: Path, **changes: object) -> PretrainConfig:
    """Two epochs at 32 px, with a kNN check on the labelled shards ``val`` beside ``shards``."""
    config = PretrainConfig(
        shards=shards,
        out=out,
        epochs=2,
        batch_size=8,
        encoder=EncoderConfig(architecture=NETWORK),
        views=ViewConfig(size=32, grid=4),
        method=MoCoConfig(queue_size=64, temperature=0.1, batch_norm_group=4, rho_warmup_epochs=1),
        optim=OptimConfig(lr=0.01),
        knn=KnnConfig(val_shards=shards.parent / "val", every_epochs=1, k=5),
        checkpoint=CheckpointConfig(keep=8),
        log_every_steps=2,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def run(config: PretrainConfig, context: LocalContext | None = None) -> RunResult:
    return launch(config, context or LocalContext(torch.device("cpu")))


class StopsAfter(LocalContext):
    """Asks for a stop when the loop has asked it ``steps`` times."""

    def __init__(self, steps: int) -> None:
        super().__init__(torch.device("cpu"))
        self._left = steps

    def stop_requested(self) -> bool:
        self._left -= 1
        return self._left <= 0


def numbers(out: Path) -> list[dict[str, float | str]]:
    return [{k: v for k, v in e.items() if k not in TIMINGS} for e in read_metrics(out)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    latest = CheckpointStore(out / "checkpoints", keep=1).latest()
    assert latest is not None
    state = torch.load(latest / "state.pt", weights_only=True)
    method: dict[str, torch.Tensor] = state["method"]
    return method
