"""What the features of a frozen backbone are like, beside how well they classify.

Invariance to masks (cosine of f(x) and f(masked x) over the masked share of foreground, background
or all patches), alignment and uniformity, effective rank. None of them needs labels.

Shapes: V validation images, M of them that are looked at, D features.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import InputError
from training.evaluate.geometry import (
    alignment,
    effective_rank,
    effective_rank_interval,
    uniformity,
    uniformity_interval,
)
from training.evaluate.intervals import mean_interval
from training.evaluate.labelled import LabelledImages
from training.evaluate.look import Look, evenly_chosen
from training.evaluate.mask_invariance import fill_of, mask_invariance
from training.evaluate.subject import Subject
from training.views.fills import fill_named


@dataclass(frozen=True, kw_only=True)
class DiagnosticsConfig:
    """What is looked at.

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
class DiagnosticFigure:
    """One figure: what it is called, of what, its 95 % interval, and what it depends on."""

    name: str
    variant: str = ""
    value: float
    interval: tuple[float, float] | None
    settings: dict[str, Any] = field(default_factory=dict)


def diagnose(
    subject: Subject,
    images: LabelledImages,
    config: DiagnosticsConfig,
    *,
    features_VD: Tensor,
    device: torch.device,
    seed: int,
    batch_size: int,
) -> list[DiagnosticFigure]:
    """Look at an encoder; every rank computes all of it.

    Masks of foreground and background need saliency: without it these figures are left out.

    Args:
        subject: the encoder.
        images: to look at.
        config: settings.
        features_VD: of the images' test-time views.
        device: that computes.
        seed: of crops, colours, masks and noise.
        batch_size: images that go through the network at once.

    Raises:
        InputError: fewer than two images, a grid that does not divide the view.
    """
    chosen = evenly_chosen(images.num_images, config.max_images)
    look = Look(
        subject=subject,
        images=images,
        grid=config.grid_of(subject.info.preprocessing.view_size),
        device=device,
        seed=seed,
        batch_size=batch_size,
    )
    features_MD = features_VD.cpu()[torch.from_numpy(chosen)]
    fill = config.fill or fill_of(subject)
    distance_M = alignment(*look.two_views(chosen)).double().numpy()
    figures = [
        DiagnosticFigure(
            name="alignment",
            value=float(distance_M.mean()),
            interval=mean_interval(distance_M, seed=seed),
        ),
        DiagnosticFigure(
            name="uniformity",
            value=uniformity(features_MD),
            interval=uniformity_interval(features_MD, seed=seed),
        ),
        DiagnosticFigure(
            name="effective_rank",
            value=effective_rank(features_MD),
            interval=effective_rank_interval(features_MD, seed=seed),
            settings={"feature_dim": features_MD.shape[1]},
        ),
    ]
    return figures + [
        DiagnosticFigure(
            name="cosine",
            variant=f"{found.kind} {found.ratio:g}",
            value=float(found.cosine_I.mean()),
            interval=mean_interval(found.cosine_I, seed=seed),
            settings={
                "fill": fill,
                "masked_share_of_view": found.masked_share,
                "saliency": images.saliency_source,
            },
        )
        for found in mask_invariance(look, chosen, features_MD, ratios=config.ratios, fill=fill)
    ]
