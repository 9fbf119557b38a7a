"""The settings of an evaluation and of its protocols. Imports no torch: --help is quick."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.core.errors import check
from training.config.resources import Wanted
from training.config.settings import check_least, check_seed
from training.evaluate.channels_config import ChannelsConfig
from training.evaluate.uncertainty_settings import UncertaintyConfig
from training.views.settings import check_fill

DETECTION = "detection"  # the protocol that has its own kind of data
RESULTS_FILE = "results.jsonl"


def _above_zero(settings: object, prefix: str, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        check(value > 0, f"{prefix}{name} {value} must be above 0")


def _shares(name: str, shares: tuple[float, ...]) -> None:
    fits = bool(shares) and all(0 < share <= 1 for share in shares)
    check(fits, f"{name} {list(shares)}: wanted some in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class BackgroundsConfig:
    """Objects on other backgrounds.

    Attributes:
        backgrounds: of other classes per object, 1 or more; an object is lost when any of them
            changes its class. `other` and the gap take the first.
        min_object: least share of a view that an object covers, in (0, 1).
        max_object: greatest share, in (0, 1): more leaves no background to take away.
        max_images: validation images at most, 2 or more, evenly chosen.
    """

    backgrounds: int = 8
    min_object: float = 0.01
    max_object: float = 0.8
    max_images: int = 5000

    def __post_init__(self) -> None:
        least, most = self.min_object, self.max_object
        check_least(self, "backgrounds.", backgrounds=1, max_images=2)
        check(
            0 < least < most < 1,
            f"backgrounds.min_object {least} and max_object {most}: wanted 0 < min < max < 1",
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
        _shares("diagnostics.ratios", self.ratios)
        check_least(self, "diagnostics.", max_images=2, grid=1)
        if self.fill is not None:
            check_fill(self.fill)

    def grid_of(self, view_size: int) -> int:
        """Patches along a side; raises InputError where they do not divide the view."""
        wanted = (self.grid,) if self.grid is not None else (8, 7, 4)
        fits = [grid for grid in wanted if view_size % grid == 0]
        cut = f"cut into {wanted[0]} x {wanted[0]} patches"
        check(bool(fits), f"a view of {view_size} px cannot be {cut}: set diagnostics.grid")
        return fits[0]


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
        _shares("finetune.shares", self.shares)
        check_least(self, "finetune.", draws=1, epochs=1, min_steps=1, weight_decay=0)
        check_least(self, "finetune.", batch_size=2, batch_norm_group=2)
        _above_zero(self, "finetune.", "lr", "head_lr")
        group, size = self.batch_norm_group, self.batch_size
        fits = size % group == 0
        check(fits, f"finetune.batch_norm_group {group} does not divide a batch of {size}")


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
        check_least(self, "linear_paper.", epochs=1, batch_size=1)
        _above_zero(self, "linear_paper.", "lr")
        momentum = self.momentum
        check(0 <= momentum < 1, f"linear_paper.momentum {momentum} must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """How a detector is built around a backbone, and trained. The defaults want a GPU.

    Attributes:
        head: fpn: feature pyramid; c4: one level, the last stage of the backbone runs on every
            region (MoCo's protocol on VOC).
        masks: predict masks as well (Mask R-CNN); auto: where both sets have outlines.
        classes: that a box may be of; empty: those of the annotations.
        val_share: share of the images that validate, in [0, 1), if --train and --val are one set.
        short_sides: lengths of the shorter side in training in pixels, 32 or more, one drawn per
            image; validation takes the last.
        long_side: limit of the longer side in pixels, 32 or more.
        steps: steps of the training, 1 or more.
        batch_size: images of a step, 1 or more.
        lr: learning rate after the warm-up, above 0, falling to 0 along a cosine.
        warmup_steps: steps over which the rate rises, 0 or more, fewer than the steps.
        weight_decay: of all weights, 0 or more.
        clip: limit of the gradient's norm, above 0.
        norm: batch: the backbone's batch norm goes on learning, and the pyramid has its own;
            frozen: it keeps its statistics and weights (for supervised weights).
        width: channels of the pyramid, 1 or more.
        head_width: width of the pyramid's two layers behind a region, 1 or more.
        finest_level: first level of the pyramid, from 2 to 5: 2 has stride 4, 3 has 8...
        smallest_anchor: side in pixels of the resized image, above 0; five (c4) or one per level,
            each twice the one before.
        proposals: regions per image that the second stage sees, 1 or more.
        sampled: regions of them that it learns from, 1 or more.
    """

    head: Literal["fpn", "c4"] = "fpn"
    masks: Literal["auto", "yes", "no"] = "auto"
    classes: tuple[str, ...] = ()
    val_share: float = 0.0
    short_sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640)
    long_side: int = 1066
    steps: int = 3000
    batch_size: int = 8
    lr: float = 0.01
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    clip: float = 10.0
    norm: Literal["batch", "frozen"] = "batch"
    width: int = 256
    head_width: int = 1024
    finest_level: int = 2
    smallest_anchor: float = 32.0
    proposals: int = 1000
    sampled: int = 256

    def __post_init__(self) -> None:
        named = self.classes
        check(len(set(named)) == len(named), f"detection.classes {named}: one is named twice")
        sides, longest = self.short_sides, self.long_side
        check(
            bool(sides) and 32 <= min(sides) <= max(sides) <= longest,
            f"detection.short_sides {list(sides)} and long_side {longest}: wanted some from 32 "
            "pixels to the long side",
        )
        counts = ("steps", "batch_size", "width", "head_width", "proposals", "sampled")
        _above_zero(self, "detection.", *counts, "lr", "clip", "smallest_anchor")
        check_least(self, "detection.", warmup_steps=0, weight_decay=0)
        share, level, warmup = self.val_share, self.finest_level, self.warmup_steps
        check(0 <= share < 1, f"detection.val_share {share:g}: wanted [0, 1)")
        check(2 <= level <= 5, f"detection.finest_level {level}: wanted 2 to 5")
        fits = warmup < self.steps
        check(fits, f"detection.warmup_steps {warmup}: wanted fewer than {self.steps}")


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
            val has masks), channels (the network with fewer inner channels), diagnostics,
            uncertainty (does it tell errors?); or, by itself, detection (a Faster or Mask R-CNN
            around the backbone; trains in one process).
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
    channels: ChannelsConfig = field(default_factory=ChannelsConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    uncertainty: UncertaintyConfig = field(default_factory=UncertaintyConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)

    def __post_init__(self) -> None:
        given = bool(self.checkpoint)
        check(given, "name what is scored: --checkpoint RUN, once or several times")
        check(bool(self.protocol), "--protocol names nothing to score with")
        check(not self.results.is_file(), f"--results {self.results} is a file: give a folder")
        check_seed(self.seed)
        check_least(self, k=1, batch_size=1, num_workers=1)
        _above_zero(self, "", "temperature")
        if DETECTION in self.protocol:
            check(
                len(set(self.protocol)) == 1,
                "detection learns from boxes, the other protocols from class labels: give "
                "--protocol detection by itself, with its own --train and --val",
            )
            check(
                self.num_workers in ("auto", 1),
                f"detection trains in one process: leave --num-workers {self.num_workers} out",
            )

    @property
    def workers(self) -> Wanted:
        """Processes on Ray."""
        return 1 if DETECTION in self.protocol else self.num_workers
