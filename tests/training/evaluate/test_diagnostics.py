"""What is said of encoders whose answer is known, and each figure by hand."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocessing
from tests.shard_sets import write_images
from tests.training.evaluate.cases import NAMES, SIZE, case_of, masked_images
from training.evaluate.config import DiagnosticsConfig
from training.evaluate.diagnostics import (
    alignment,
    diagnostics,
    effective_rank,
    effective_rank_interval,
    uniformity,
    uniformity_interval,
)
from training.evaluate.labelled import LabelledImages, open_labelled
from training.evaluate.results import Result

PLAIN = Preprocessing(view_size=SIZE, resize=SIZE)
"""No resizing: a view is the image itself, so its halves are the mask's."""


class Half(nn.Module):
    """Sees the means of the left or of the right half."""

    def __init__(self, columns: slice) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW[..., self.columns].mean(dim=(2, 3))


LEFT, RIGHT = Half(slice(0, SIZE // 2)), Half(slice(SIZE // 2, SIZE))


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """Class colours in the left half of grey images, whose maps mark the left half."""
    images = []
    for number in range(12):
        image = np.full((SIZE, SIZE, 3), 20 * (number % 5) + 60, dtype=np.uint8)
        image[:, : SIZE // 2] = 250 * np.eye(3, dtype=np.uint8)[number % 3]
        images.append(image)
    mask = np.zeros((SIZE, SIZE), dtype=np.float32)
    mask[:, : SIZE // 2] = 1
    root = tmp_path_factory.mktemp("objects")
    return masked_images(root, images, [n % 3 for n in range(12)], [mask] * 12, "made")


def look(network: nn.Module, images: LabelledImages, **changes: object) -> dict[str, Result]:
    given = {"ratios": (0.25, 1.0), "grid": 4, "fill": "mean"} | changes
    config = DiagnosticsConfig(**given)  # type: ignore[arg-type]
    case = case_of(network, images, images, PLAIN, diagnostics=config, batch_size=5)
    return {found.column: found for found in diagnostics(case)}


def test_masks_where_the_encoder_does_not_look(objects: LabelledImages) -> None:
    right, left = look(RIGHT, objects), look(LEFT, objects)
    for ratio in ("0.25", "1"):
        assert right[f"cosine foreground {ratio}"].figure == pytest.approx(1, abs=1e-5)
        assert left[f"cosine background {ratio}"].figure == pytest.approx(1, abs=1e-5)
    # The fill is the view's mean, which still has some of the object's colour.
    assert left["cosine foreground 1"].figure < 0.98
    assert right["cosine background 1"].figure < 0.98
    shares = {name: f.settings.get("masked_share_of_view") for name, f in left.items()}
    assert shares["cosine foreground 0.25"] == pytest.approx(2 / 16)
    assert shares["cosine foreground 1"] == pytest.approx(8 / 16)
    assert shares["cosine random 0.25"] == pytest.approx(4 / 16)
    assert look(LEFT, objects) == left, "the same seed says the same"
    assert left.pop("effective_rank").interval is None, "12 images are too few"
    for name, found in left.items():
        assert found.interval is not None
        low, high = found.interval
        assert low - 1e-6 <= found.figure <= high + 1e-6, name


def test_images_that_are_all_foreground_have_no_background(
    objects: LabelledImages, tmp_path: Path
) -> None:
    images = [objects.image(number) for number in range(12)]
    write_images(tmp_path, images, [n % 3 for n in range(12)], NAMES)
    flat = look(LEFT, open_labelled(tmp_path), max_images=6)
    assert "cosine background 1" not in flat
    # The foreground is the whole view then.
    assert flat["cosine foreground 1"].figure == pytest.approx(flat["cosine random 1"].figure)
    assert flat["cosine foreground 1"].settings["masked_share_of_view"] == 1.0


@pytest.mark.parametrize("fill", ["blur", "high_pass", None])
def test_every_fill(objects: LabelledImages, fill: str | None) -> None:
    found = look(LEFT, objects, fill=fill)["cosine foreground 1"]
    assert found.settings["fill"] == (fill or "mean")
    assert -1 <= found.figure <= 1


def features(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def test_alignment() -> None:
    first = features(50, 8)
    torch.testing.assert_close(alignment(first, 3 * first), torch.zeros(50), atol=1e-6, rtol=0)
    torch.testing.assert_close(alignment(first, -first), torch.full((50,), 4.0))
    # Independent directions: 2 - 2 * mean cosine, which is 0 but for chance.
    apart = alignment(features(4000, 64), features(4000, 64, seed=1))
    assert float(apart.mean()) == pytest.approx(2, abs=0.02)


def test_uniformity_by_hand() -> None:
    x = F.normalize(features(20, 5), dim=1)
    total = [
        math.exp(-2 * float((x[i] - x[j]).square().sum())) for i in range(20) for j in range(i)
    ]
    assert uniformity(7 * x) == pytest.approx(math.log(sum(total) / len(total)), rel=1e-5)
    assert uniformity(torch.ones(6, 4)) == pytest.approx(0)
    assert uniformity(x) < uniformity(x + 1)
    with pytest.raises(InputError, match="wanted 2 or more"):
        uniformity(x[:1])


def test_effective_rank() -> None:
    # Equal eigenvalues in k directions: exactly k.
    axes = torch.eye(6).repeat(4, 1)
    for k in (2, 5):
        spread = torch.cat([axes[:, :k], -axes[:, :k]])
        assert effective_rank(spread[spread.abs().sum(1) > 0] + 3) == pytest.approx(k)
    shares = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    rows = torch.diag(shares.sqrt())
    expected = math.exp(-float((shares * shares.log()).sum()))
    assert effective_rank(torch.cat([rows, -rows])) == pytest.approx(expected)
    assert effective_rank(torch.ones(5, 3)) == 0


def covered(
    figure: Callable[..., float], interval: Callable[..., tuple[float, float] | None]
) -> float:
    """Share of intervals over 60 images, of 100 draws of them, that hold the mean of figures."""
    draws = [features(60, 4, seed=seed) * torch.tensor([3.0, 2.0, 1.0, 1.0]) for seed in range(100)]
    truth = sum(figure(draw) for draw in draws) / len(draws)
    found = [between for draw in draws if (between := interval(draw, seed=0)) is not None]
    assert len(found) == len(draws)
    return sum(low <= truth <= high for low, high in found) / len(found)


def test_intervals_cover() -> None:
    # 95 % of 100 draws, give or take: five standard errors of a binomial are 0.11.
    assert covered(uniformity, uniformity_interval) >= 0.84
    assert covered(effective_rank, effective_rank_interval) >= 0.84
    draw = features(200, 4)
    low, high = uniformity_interval(draw, seed=0)
    assert low < uniformity(draw) < high
    # Narrow enough to say something, and narrower with more images.
    assert high - low < 0.5
    more_low, more_high = uniformity_interval(features(800, 4), seed=0)
    assert more_high - more_low < 0.75 * (high - low)
