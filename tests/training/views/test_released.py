"""What the published code does, against loops that follow its description."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.saliency.foreground import foreground
from training.randomness.draws import Stream, sample_seeds, torch_seeds, view_number
from training.randomness.noise import gaussian_noise
from training.views.maskers import MaskDraws, draw_masks
from training.views.patches import Counting, masked_counts
from training.views.released import shared_noise, sorted_rows

GRID, VIEW_SIZE, PATCH = 7, 56, 8


def random_saliency(batch: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, GRID, GRID, generator=generator).square()


def test_foreground_is_thresholded_on_sorted_rows() -> None:
    saliency = random_saliency(50)
    marked = foreground(sorted_rows(saliency), threshold=-0.6)
    assert torch.equal(marked.sum(dim=2), foreground(saliency).sum(dim=2))
    assert not torch.equal(marked, foreground(saliency))
    for image in range(50):
        values = saliency[image].double().numpy()
        ordered = np.sort(values)  # each row by itself
        limit = values.mean() - 0.6 * values.std()
        for row in range(GRID):
            for column in range(GRID):
                assert bool(marked[image, row, column]) == (ordered[row, column] >= limit)


def slow_counts(ratio: float, inside: int, outside: int) -> tuple[int, int]:
    """As a list of patches cut at [:count], and lists of one are left alone."""
    patches = inside + outside
    first = round(ratio * (inside / patches) * patches)
    second = int(patches * ratio) - first
    foreground_list, background_list = list(range(inside)), list(range(outside))
    return (
        0 if inside == 1 else len(foreground_list[:first]),
        0 if outside == 1 else len(background_list[:second]),
    )


@given(st.floats(0.0, 1.0), st.integers(0, 49))
def test_counts_are_those_of_cut_lists(ratio: float, inside: int) -> None:
    first = torch.arange(49)[None] < inside
    counts = masked_counts(
        torch.tensor([ratio], dtype=torch.float64), (first, ~first), Counting(released=True)
    )
    assert (int(counts[0]), int(counts[1])) == slow_counts(ratio, inside, 49 - inside)


def test_minus_one_background_patch_masks_all_but_one() -> None:
    """With 41 to 47 foreground patches of 49, by the paper's ratios."""
    ratios = torch.linspace(0.05, 0.25, 2001, dtype=torch.float64)
    hit = set()
    for inside in range(48):
        first = (torch.arange(49) < inside).expand(len(ratios), -1)
        _, plain = masked_counts(ratios, (first, ~first))
        _, released = masked_counts(ratios, (first, ~first), Counting(released=True))
        if bool((plain != released).any()):
            assert set(released[plain != released].tolist()) == {49 - inside - 1}
            hit.add(inside)
    assert hit == set(range(41, 48))


def draws(batch: int, view: str, side: int) -> tuple[Tensor, MaskDraws]:
    seeds = sample_seeds(5, 0, np.arange(batch))
    number, ratio = view_number(view), (0.1, 0.5)
    drawn = draw_masks(
        seeds, view=number, ratio=ratio, grid=GRID, view_size=VIEW_SIZE, box_side=side
    )
    return torch_seeds(seeds), drawn


def noise_of(seeds: Tensor, drawn: MaskDraws, name: str) -> Tensor:
    hides = name != "query"
    size = {"view_size": VIEW_SIZE, "grid": GRID}
    return shared_noise(seeds, drawn, view=name, hides_object=hides, **size)


@pytest.mark.parametrize(
    ("name", "side"), [("query", 50), ("negative-key-0", 32), ("negative-query-0", 32)]
)
def test_noise_is_shared_as_described(name: str, side: int) -> None:
    """The sides of the focal boxes are 200 and 130 px of 224, here of 56."""
    batch, view = 24, view_number(name)
    seeds, drawn = draws(batch, name, side)
    noise = noise_of(seeds, drawn, name)
    assert noise.shape == (batch, 3, VIEW_SIZE, VIEW_SIZE)
    tiles = {
        stream: gaussian_noise(seeds[:1], view, (3, size, size), stream=stream)[0]
        for stream, size in (
            (Stream.SPATIAL_TILE, PATCH),
            (Stream.CHANNEL_TILE, PATCH),
            (Stream.FOCAL_TILE, side),
        )
    }
    shapes = set()
    for image in range(batch):
        shape = float(drawn.shape_B[image])
        if shape < 0.2:
            shapes.add("focal")
            top, left, bottom, right = drawn.box_B4[image].tolist()
            if name != "query":
                inside = noise[image, :, top:bottom, left:right]
                assert torch.equal(inside, tiles[Stream.FOCAL_TILE])
            else:
                own = gaussian_noise(seeds[image : image + 1], view, (3, VIEW_SIZE, VIEW_SIZE))
                assert torch.equal(noise[image], own[0])
            continue
        stream = Stream.SPATIAL_TILE if shape < 0.44 else Stream.CHANNEL_TILE
        shapes.add(stream.name)
        for row in range(0, VIEW_SIZE, PATCH):
            for column in range(0, VIEW_SIZE, PATCH):
                patch = noise[image, :, row : row + PATCH, column : column + PATCH]
                assert torch.equal(patch, tiles[stream])
    assert shapes == {"focal", "SPATIAL_TILE", "CHANNEL_TILE"}


def test_shared_noise_follows_the_first_image_and_the_view() -> None:
    seeds, drawn = draws(8, "negative-key-0", 32)
    base = noise_of(seeds, drawn, "negative-key-0")
    others = seeds.clone()
    others[1:] += 1
    assert torch.equal(noise_of(others, drawn, "negative-key-0"), base)
    others[0] += 1
    assert not torch.equal(noise_of(others, drawn, "negative-key-0"), base)
    assert not torch.equal(noise_of(seeds, drawn, "negative-key-1"), base)
