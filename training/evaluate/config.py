"""The configuration of an evaluation and of its protocols. Imports no torch: --help is quick."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.core.errors import InputError
from training.config.resources import Wanted
from training.evaluate.detection_config import DetectionConfig

DETECTION = "detection"
"""The protocol that has its own kind of data."""
RESULTS_FILE = "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class BackgroundsConfig:
    """Objects on other backgrounds.

    Attributes:
        backgrounds: of other classes per object, 1 or more; an object counts as lost when any of
            them changes its class. `other` and the gap take the first.
        min_object: least share of a view that an object covers, in (0, 1).
        max_object: greatest share, in (0, 1): more leaves no background to take away.
        max_images: validation images at most, 2 or more, evenly chosen.
    """

    backgrounds: int = 8
    min_object: float = 0.01
    max_object: float = 0.8
    max_images: int = 5000

    def __post_init__(self) -> None:
        if self.backgrounds < 1 or self.max_images < 2:
            raise InputError("backgrounds.backgrounds must be 1 or more, max_images 2 or more")
        if not 0 < self.min_object < self.max_object < 1:
            raise InputError(
                f"backgrounds.min_object {self.min_object} and max_object {self.max_object}: "
                "wanted 0 < min_object < max_object < 1"
            )


@dataclass(frozen=True, kw_only=True)
class DiagnosticsConfig:
    """Figures of the features themselves, without labels.

    Attributes:
        ratios: masked shares of the patches of a kind, in (0, 1].
        grid: patches along a side of the view, 1 or more; none: 8 where that divides it, else 7,
            else 4.
        fill: what stands in masked patches: mean, blur or high_pass; none: what the run used.
        max_images: validation images at most, 2 or more, evenly chosen.
    """

    ratios: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    grid: int | None = None
    fill: str | None = None
    max_images: int = 1000

    def __post_init__(self) -> None:
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios):
            raise InputError(f"diagnostics.ratios {list(self.ratios)}: wanted some in (0, 1]")
        if self.max_images < 2 or (self.grid is not None and self.grid < 1):
            raise InputError("diagnostics.max_images must be 2 or more, grid 1 or more")
        if self.fill is not None:
            from training.views.fills import fill_named  # imports torch

            fill_named(self.fill)

    def grid_of(self, view_size: int) -> int:
        """Patches along a side; raises InputError where they do not divide the view."""
        wanted = (self.grid,) if self.grid is not None else (8, 7, 4)
        for grid in wanted:
            if view_size % grid == 0:
                return grid
        raise InputError(
            f"a view of {view_size} px cannot be cut into {wanted[0]} x {wanted[0]} patches: set "
            "diagnostics.grid"
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How the network is fine-tuned.

    Attributes:
        shares: of the training labels, in (0, 1].
        draws: times that a share below 1 is drawn and tuned on, 1 or more; a figure is their mean,
            and its interval includes the draw.
        epochs: passes over the chosen images, 1 or more.
        min_steps: steps at least, 1 or more, however few images there are.
        batch_size: images of a step, all workers together, 2 or more.
        lr: learning rate of the network, above 0, falling to 0 along a cosine.
        head_lr: learning rate of the classifier, above 0, likewise.
        weight_decay: of both, 0 or more.
        batch_norm_group: images that share batch statistics, 2 or more, so that they do not depend
            on the number of workers; divides each worker's batch.
    """

    shares: tuple[float, ...] = (0.01, 0.1, 1.0)
    draws: int = 3
    epochs: int = 30
    min_steps: int = 200
    batch_size: int = 64
    lr: float = 0.01
    head_lr: float = 0.1
    weight_decay: float = 1e-4
    batch_norm_group: int = 16

    def __post_init__(self) -> None:
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise InputError(f"finetune.shares {list(self.shares)}: wanted some in (0, 1]")
        least = min(self.draws, self.epochs, self.min_steps)
        if least < 1 or min(self.lr, self.head_lr) <= 0:
            raise InputError(
                f"finetune: draws {self.draws}, epochs {self.epochs}, min_steps {self.min_steps}, "
                f"lr {self.lr}, head_lr {self.head_lr}: wanted 1 or more, rates above 0"
            )
        if self.weight_decay < 0:
            raise InputError(f"finetune.weight_decay {self.weight_decay} must be 0 or more")
        if (
            self.batch_size < 2
            or self.batch_norm_group < 2
            or self.batch_size % self.batch_norm_group
        ):
            raise InputError(
                f"finetune.batch_norm_group {self.batch_norm_group} does not divide the batch of "
                f"{self.batch_size}, or is below 2"
            )


@dataclass(frozen=True, kw_only=True)
class PaperProbeConfig:
    """The paper's linear probe.

    Attributes:
        epochs: passes over the training images, 1 or more; the rate falls at 60 and 80 % of them.
        batch_size: images of a step, all workers together, 1 or more.
        lr: learning rate, above 0.
        momentum: of SGD, in [0, 1).
    """

    epochs: int = 100
    batch_size: int = 256
    lr: float = 30.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or not self.lr > 0 or not 0 <= self.momentum < 1:
            raise InputError(
                f"epochs {self.epochs}, batch_size {self.batch_size}, lr {self.lr}, momentum "
                f"{self.momentum}: wanted 1 or more, lr above 0 and momentum in [0, 1)"
            )


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
        seed: of everything that is drawn, 0 or more.
        batch_size: images that go through the network at once, 1 or more.
        bf16: compute in bfloat16: faster on a GPU, a little less exact.
        local: in this process, without Ray.
        num_workers: processes on Ray, 1 or more; auto: one per GPU; without GPUs one per node;
            detection: 1.
    """

    checkpoint: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(aliases=("--backbone",))
    ]
    train: Annotated[Path, tyro.conf.arg(aliases=("--train-shards",))]
    val: Annotated[Path, tyro.conf.arg(aliases=("--val-shards",))]
    protocol: tuple[str, ...] = ("knn", "linear")
    encoder: Literal["query", "momentum"] = "query"
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
        if self.results.is_file():
            raise InputError(f"--results {self.results} is a file: give a folder")
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
                f"detection trains in one process: leave --num-workers {self.num_workers} out"
            )

    @property
    def workers(self) -> Wanted:
        """Processes on Ray."""
        return 1 if DETECTION in self.protocol else self.num_workers
