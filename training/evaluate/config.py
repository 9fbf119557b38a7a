"""The configuration of an evaluation, put together from the protocols' own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from pipeline.core.errors import InputError
from training.config.resources import Wanted
from training.encoders.kept_encoder import EncoderName
from training.evaluate.backgrounds import BackgroundsConfig
from training.evaluate.detection.config import DetectionConfig
from training.evaluate.diagnostics import DiagnosticsConfig
from training.evaluate.finetune import FinetuneConfig
from training.evaluate.linear_paper import PaperProbeConfig
from training.evaluate.results import check_folder

DETECTION = "detection"
"""The protocol that has its own kind of data."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score checkpoints on labelled images: what pretraining bought.

    Attributes:
        checkpoint: a run, a checkpoint or an exported backbone; several times: they are compared.
            `untrained` is the first one's network with random weights, the mean of three seeds
            (of one for finetune and linear_paper), batch norm calibrated on --train; `torchvision`,
            `torchvision:NAME` or a local .pth file the same network with supervised weights.
        train: images whose labels are given: shards, or a folder of class folders. For detection:
            COCO's .json, VOC's folder of XML files or image list, or a folder that holds one.
        val: images that are classified, likewise. Other data than the pretraining's is a transfer.
        protocol: some of knn, linear (fast: features once, logistic regression), linear_paper (SGD
            on augmented views, 100 epochs), finetune, backgrounds (objects on other backgrounds;
            val has masks), diagnostics; or, by itself, detection (a Faster or Mask R-CNN around
            the backbone; trains in one process).
        encoder: which encoder of the runs: query, or momentum.
        results: folder that gets every figure, a line of JSON each, and every image's predictions.
        k: neighbours that vote, 1 or more.
        temperature: of the votes' weights, exp(cosine / temperature), above 0.
        seed: that everything random follows from, 0 or more.
        batch_size: images that go through the network at once, 1 or more.
        bf16: compute in bfloat16: faster on a GPU, a little less exact.
        local: in this process, without Ray.
        num_workers: processes on Ray, 1 or more; auto: one per GPU; without GPUs one per node;
            detection: 1.
    """

    groups: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "subject": (
            "What is scored, on what, and where the figures go.",
            ("checkpoint", "encoder", "protocol", "train", "val", "results"),
        ),
        "process": (
            "What it runs on.",
            ("local", "num_workers", "batch_size", "bf16", "seed"),
        ),
        "knn": ("Weighted nearest neighbours.", ("k", "temperature")),
    }

    checkpoint: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(aliases=("--backbone",))
    ]
    train: Annotated[Path, tyro.conf.arg(aliases=("--train-shards",))]
    val: Annotated[Path, tyro.conf.arg(aliases=("--val-shards",))]
    protocol: tuple[str, ...] = ("knn", "linear")
    encoder: EncoderName = "query"
    results: Path = Path("runs/results")
    k: int = 20
    temperature: float = 0.07
    seed: int = 0
    batch_size: int = 256
    bf16: bool = False
    local: bool = False
    num_workers: Wanted = "auto"
    linear_paper: PaperProbeConfig = field(default_factory=PaperProbeConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    backgrounds: BackgroundsConfig = field(default_factory=BackgroundsConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise InputError("name what is scored: --checkpoint RUN, once or several times")
        if not self.protocol:
            raise InputError("--protocol names nothing to score with")
        check_folder(self.results)
        if self.batch_size < 1 or (self.num_workers != "auto" and self.num_workers < 1):
            raise InputError("batch_size and num_workers must be 1 or more")
        if self.k < 1 or self.temperature <= 0 or self.seed < 0:
            raise InputError(
                f"k {self.k} must be 1 or more, temperature {self.temperature} above 0 and seed "
                f"{self.seed} 0 or more"
            )
        if DETECTION in self.protocol and len(set(self.protocol)) > 1:
            raise InputError(
                "detection learns from boxes, the other protocols from class labels: give "
                "--protocol detection by itself, with its own --train and --val"
            )
        if DETECTION in self.protocol and self.num_workers not in ("auto", 1):
            raise InputError(
                f"detection trains in one process, --num-workers {self.num_workers} was asked for: "
                "leave it away"
            )

    @property
    def workers(self) -> Wanted:
        """Processes on Ray."""
        return 1 if DETECTION in self.protocol else self.num_workers
