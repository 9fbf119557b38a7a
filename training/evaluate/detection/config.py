"""How a detector is built around a backbone, and trained."""

from dataclasses import dataclass
from typing import Literal

from pipeline.core.errors import InputError

HEADS = ("fpn", "c4")
MASKS = ("auto", "yes", "no")
NORMS = ("batch", "frozen")


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """How a detector is built around a backbone, and trained. The defaults want a GPU.

    Attributes:
        head: fpn: feature pyramid; c4: one level, the last stage of the backbone runs on every
            region (MoCo's protocol on VOC).
        masks: predict masks as well (Mask R-CNN); auto: where both sets have outlines.
        classes: that a box may be of; empty: those of the annotations.
        val_share: share of the images that validate, in [0, 1), where --train and --val name one
            set.
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
        for name, known in (("head", HEADS), ("masks", MASKS), ("norm", NORMS)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"detection.{name} {getattr(self, name)!r}: wanted one of {', '.join(known)}"
                )
        if len(set(self.classes)) < len(self.classes):
            raise InputError(f"detection.classes {', '.join(self.classes)}: one is named twice")
        if not 0 <= self.val_share < 1:
            raise InputError(f"detection.val_share {self.val_share:g}: wanted [0, 1)")
        if (
            not self.short_sides
            or not 32 <= min(self.short_sides) <= max(self.short_sides) <= self.long_side
        ):
            raise InputError(
                f"detection.short_sides {list(self.short_sides)} and long_side {self.long_side}: "
                "wanted some from 32 pixels to the long side"
            )
        if not 2 <= self.finest_level <= 5:
            raise InputError(f"detection.finest_level {self.finest_level}: wanted 2 to 5")
        counts = ("steps", "batch_size", "width", "head_width", "proposals", "sampled")
        positive = (*counts, "lr", "clip", "smallest_anchor")
        wrong = next((name for name in positive if not getattr(self, name) > 0), None)
        if wrong is not None:
            raise InputError(f"detection.{wrong} {getattr(self, wrong)}: wanted more than 0")
        if not 0 <= self.warmup_steps < self.steps or self.weight_decay < 0:
            raise InputError(
                f"detection: warmup_steps {self.warmup_steps} of {self.steps} steps, weight_decay "
                f"{self.weight_decay}: wanted fewer than the steps, none below 0"
            )
