"""What is said of encoders whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.images.preprocessing import Preprocessing
from tests.shard_sets import write_images
from tests.training.evaluate.cases import NAMES, SIZE, case_of, folders, masked_images
from training.evaluate.config import DiagnosticsConfig
from training.evaluate.diagnostics import diagnostics
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
    for name, found in left.items():
        if name == "effective_rank":  # 12 images are too few
            assert found.interval is None
            continue
        assert found.interval is not None
        low, high = found.interval
        assert low - 1e-6 <= found.figure <= high + 1e-6, name


def test_images_that_are_all_foreground_have_no_background(
    objects: LabelledImages, tmp_path: Path
) -> None:
    images = [objects.image(number) for number in range(12)]
    write_images(tmp_path, images, [n % 3 for n in range(12)], NAMES)
    flat = look(LEFT, open_labelled(tmp_path))
    assert "cosine background 1" not in flat
    # The foreground is the whole view then.
    assert flat["cosine foreground 1"].figure == pytest.approx(flat["cosine random 1"].figure)
    assert flat["cosine foreground 1"].settings["masked_share_of_view"] == 1.0


def test_folders_have_random_masks_only(tmp_path: Path) -> None:
    names = set(look(LEFT, folders(tmp_path, 9, seed=0), max_images=6))
    cosines = {"cosine random 0.25", "cosine random 1"}
    assert names == {"alignment", "uniformity", "effective_rank"} | cosines


@pytest.mark.parametrize("fill", ["blur", "high_pass", None])
def test_every_fill(objects: LabelledImages, fill: str | None) -> None:
    found = look(LEFT, objects, fill=fill)["cosine foreground 1"]
    assert found.settings["fill"] == (fill or "mean")
    assert -1 <= found.figure <= 1
