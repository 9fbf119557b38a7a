"""The configuration of an evaluation, put together from the protocols' own."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.errors import InputError
from training.cluster.resources import Wanted
from training.encoders.kept_encoder import EncoderName
from training.evaluate.diagnostics import DiagnosticsConfig
from training.evaluate.finetune import FinetuneConfig
from training.evaluate.linear_paper import PaperProbeConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score checkpoints on labelled images: what pretraining bought.

    Attributes:
        checkpoint: a run, a checkpoint or an exported backbone; several times: they are compared.
            `untrained` is the first one's network with random weights.
        train: images whose labels are given: shards, or a folder of class folders.
        val: images that are classified, likewise. Other data than the pretraining's is a transfer.
        protocol: some of knn, linear (fast: features once, logistic regression), linear_paper (SGD
            on augmented views, 100 epochs), finetune, diagnostics.
        encoder: which encoder of the runs: query, or momentum.
        results: file that every figure is appended to, a line of JSON each.
        k: neighbours of knn.
        temperature: of knn.
        seed: of all that is drawn.
        batch_size: images that go through the network at once.
        bf16: compute in bfloat16: faster on a GPU, a little less exact.
        local: in this process, without Ray.
        num_workers: processes on Ray; auto: one per GPU; without GPUs one per node.
    """

    checkpoint: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(aliases=("--backbone",))
    ]
    train: Annotated[Path, tyro.conf.arg(aliases=("--train-shards",))]
    val: Annotated[Path, tyro.conf.arg(aliases=("--val-shards",))]
    protocol: tuple[str, ...] = ("knn", "linear")
    encoder: EncoderName = "query"
    results: Path = Path("runs/results.jsonl")
    k: int = 20
    temperature: float = 0.07
    seed: int = 0
    batch_size: int = 256
    bf16: bool = False
    local: bool = False
    num_workers: Wanted = "auto"
    linear_paper: PaperProbeConfig = field(default_factory=PaperProbeConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise InputError("name what is scored: --checkpoint RUN, once or several times")
        if not self.protocol:
            raise InputError("--protocol names nothing to score with")
        if self.batch_size < 1 or (self.num_workers != "auto" and self.num_workers < 1):
            raise InputError("batch_size and num_workers must be 1 or more")
