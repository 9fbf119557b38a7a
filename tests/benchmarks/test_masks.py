"""Speed of masks, fills and colours on one core, with what they replace measured beside them."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from training.views.mask_draws import MaskDraws, draw_masks
from training.views.masks import hard_negative_mask, view_mask

from tests.training.views.made import NEGATIVE_VIEW, QUERY_VIEW
from training.randomness.draws import sample_seeds, torch_seeds
from training.views.colours import augment_colours, draw_colours
from training.views.fills import FILLS, UnmaskedView, sample_noise
from training.views.patches import Counting, choose_patches
from training.views.settings import AugmentConfig

pytestmark = pytest.mark.benchmark

BATCH, GRID, VIEW_SIZE = 256, 7, 224
PATCHES = GRID * GRID
TARGET_US = 10.0


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def microseconds(name: str, work: Callable[[], object], images: int, repeats: int = 15) -> float:
    """Print the median and the spread of the time per image; return the median."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) / images * 1e6)
    times.sort()
    median = statistics.median(times)
    print(f"  {name:<58} {median:9.2f} us/image ({times[0]:.2f} to {times[-1]:.2f})")
    return median


def print_machine(title: str) -> None:
    print(
        f"\n{title}: one thread, {platform.processor() or platform.machine()},"
        f" {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    )


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
    query = mask_draws(QUERY_VIEW, (0.05, 0.25), 200)
    negative = mask_draws(NEGATIVE_VIEW, (0.4, 0.7), 130)

    def patches(channels: int) -> Tensor:
        flat = foreground.flatten(1)
        capped = channels == 3
        a = choose_patches(
            query.scores_BCN[:, :channels], (flat, ~flat), query.ratio_B, Counting(capped)
        )
        b = choose_patches(
            negative.scores_BCN[:, :channels],
            (flat, torch.zeros_like(flat)),
            negative.ratio_B,
            Counting(capped),
        )
        return torch.stack((a, b))

    def pixels(high_pass: bool) -> None:
        view_mask(
            foreground,
            foreground.float(),
            query,
            strategy="balanced",
            view_size=VIEW_SIZE,
            high_pass=high_pass,
        )
        hard_negative_mask(foreground, negative, view_size=VIEW_SIZE, high_pass=high_pass)

    print_machine(f"Masks of query and hard negative, batch {BATCH}, {GRID} x {GRID} patches")
    naive = naive_masks(foreground, query, negative)
    assert torch.equal(patches(1)[:, :, 0], naive)
    counted = microseconds("patches of both (counted)", lambda: patches(1), BATCH, 50)
    microseconds("patches of both, three channels", lambda: patches(3), BATCH)
    microseconds(f"pixels of both, {VIEW_SIZE} px", lambda: pixels(False), BATCH)
    microseconds(f"pixels of both, {VIEW_SIZE} px, high-pass", lambda: pixels(True), BATCH)
    microseconds(
        "drawing the numbers of one view", lambda: mask_draws(QUERY_VIEW, (0, 1), 9), BATCH
    )
    microseconds(
        "baseline: loops over samples and patches",
        lambda: naive_masks(foreground, query, negative),
        BATCH,
        3,
    )
    assert counted <= TARGET_US


@pytest.mark.parametrize(("view_size", "grid", "batch"), [(64, 8, 64), (224, 7, 16)])
def test_colours_and_fills(view_size: int, grid: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, view_size, view_size, generator=generator)
    seeds = sample_seeds(0, 0, np.arange(batch))
    config = AugmentConfig()
    colours = draw_colours(seeds, view=QUERY_VIEW, config=config, view_size=view_size)
    draws = draw_masks(
        seeds, view=QUERY_VIEW, ratio=(0.1, 0.2), grid=grid, view_size=view_size, box_side=40
    )
    foreground = torch.rand(batch, grid, grid, generator=generator) < 0.7
    print_machine(f"Colours and fills, {view_size} px, batch {batch}")
    microseconds(
        "drawing colours",
        lambda: draw_colours(seeds, view=QUERY_VIEW, config=config, view_size=view_size),
        batch,
    )
    ours = microseconds("augment_colours", lambda: augment_colours(image, colours), batch)
    blur = v2.GaussianBlur(colours.kernel_BK.shape[1], (0.1 * view_size / 224, view_size / 112))
    usual = v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([blur], p=0.5),
        ]
    )
    theirs = microseconds(
        "baseline: torchvision, image by image", lambda: [usual(one) for one in image], batch, 5
    )
    assert ours < theirs
    for name, fill in FILLS.items():
        noise = partial(
            sample_noise, torch_seeds(seeds), view="query", size=(3, view_size, view_size)
        )
        view = UnmaskedView(fill.prepare(image), image, noise)
        mask = view_mask(
            foreground,
            foreground.float(),
            draws,
            strategy="balanced",
            view_size=view_size,
            high_pass=fill.high_pass,
        )
        microseconds(
            f"{name}: prepare",
            lambda fill=fill: fill.prepare(image),  # type: ignore[misc]
            batch,
        )
        microseconds(
            f"{name}: fill",
            lambda fill=fill, view=view, mask=mask: fill.apply(view, mask),  # type: ignore[misc]
            batch,
        )
