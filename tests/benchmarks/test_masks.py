"""Speed of masks on one core, with what they replace measured beside them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.benchmarks.timing import in_turns, machine, show_medians
from tests.training.views.made import NEGATIVE_VIEW, QUERY_VIEW, settings_of, views_of
from training.randomness.draws import sample_seeds
from training.views.maskers import MaskDraws, MaskerInputs, draw_masks
from training.views.patches import Counting, choose_patches

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

BATCH, GRID, VIEW_SIZE = 256, 7, 224
PATCHES, ROUNDS = GRID * GRID, 25
TARGET_US = 10.0


def mask_draws(view: int, ratio: tuple[float, float], box_side: int) -> MaskDraws:
    seeds = sample_seeds(0, 0, np.arange(BATCH))
    return draw_masks(
        seeds, view=view, ratio=ratio, grid=GRID, view_size=VIEW_SIZE, box_side=box_side
    )


def naive_masks(foreground: Tensor, query: MaskDraws, negative: MaskDraws) -> Tensor:
    """Loops over samples and patches, as such code is often written."""
    masks = torch.zeros(2, len(foreground), PATCHES, dtype=torch.bool)
    for image in range(len(foreground)):
        inside = [p for p in range(PATCHES) if foreground[image].flatten()[p]]
        outside = [p for p in range(PATCHES) if p not in inside]
        ratio = float(query.ratio_B[image])
        first = round(ratio * (len(inside) / PATCHES) * PATCHES)
        second = max(0, int(PATCHES * ratio) - first)
        hard = round(float(negative.ratio_B[image]) * (len(inside) / PATCHES) * PATCHES)
        for view, members, count, scores in (
            (0, inside, first, query.scores_BCN[image, 0]),
            (0, outside, second, query.scores_BCN[image, 0]),
            (1, inside, hard, negative.scores_BCN[image, 0]),
        ):
            for patch in sorted(members, key=lambda p: float(scores[p]))[:count]:
                masks[view, image, patch] = True
    return masks


def test_masks_of_a_batch() -> None:
    """Counted: the choice of patches of query and hard negative, from draws and foregrounds.

    Not counted, but printed: drawing the numbers (the loader's work), and spreading patches over
    pixels, whose cost is that of writing the mask.
    """
    generator = torch.Generator().manual_seed(0)
    foreground = torch.rand(BATCH, GRID, GRID, generator=generator) < 0.7
    flat = foreground.flatten(1)
    query = mask_draws(QUERY_VIEW, (0.05, 0.25), 200)
    negative = mask_draws(NEGATIVE_VIEW, (0.4, 0.7), 130)

    def patches() -> Tensor:
        counting = Counting(False)
        groups = (flat, ~flat), (flat, torch.zeros_like(flat))
        chosen = [
            choose_patches(draws.scores_BCN[:, :1], parts, draws.ratio_B, counting)
            for draws, parts in zip((query, negative), groups, strict=True)
        ]
        return torch.stack(chosen)

    inputs = MaskerInputs(foreground, foreground.float(), VIEW_SIZE, None)

    def pixels(fill: str) -> None:
        views = views_of(settings_of(fill, size=VIEW_SIZE, grid=GRID, strategy="balanced"))
        for view, draws in ((views[0], query), (views[2], negative)):
            assert view.masker is not None
            view.masker.mask(draws, inputs)

    assert torch.equal(patches()[:, :, 0], naive_masks(foreground, query, negative))
    print(
        f"\nMasks of query and hard negative, batch {BATCH}, {GRID} x {GRID} patches, one thread's "
        f"CPU time: {machine('torch')}"
    )
    # By itself: after work on pixels its tensors are no longer in the processor's cache.
    times = in_turns({"patches of both (counted)": lambda _: patches()}, ROUNDS) | in_turns(
        {
            "pixels of both": lambda _: pixels("mean"),
            "pixels of both, high-pass": lambda _: pixels("high_pass"),
            "drawing the numbers of one view": lambda _: mask_draws(QUERY_VIEW, (0, 1), 9),
        },
        ROUNDS,
    )
    loops = {"baseline: loops": lambda _: naive_masks(foreground, query, negative)}
    us = show_medians(times | in_turns(loops, 3), "us/image", 1e6 / BATCH)
    assert us["patches of both (counted)"] <= TARGET_US
