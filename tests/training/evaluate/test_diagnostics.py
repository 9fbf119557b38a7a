"""What is said of encoders whose answer is known."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.errors import InputError
from tests.shard_sets import write_images
from tests.training.evaluate.cases import SIZE, colours_subject, write_folders
from training.evaluate.diagnostics import DiagnosticFigure, DiagnosticsConfig, diagnose
from training.evaluate.extract import gathered_features
from training.evaluate.labelled import LabelledImages, open_labelled
from training.evaluate.subject import Subject

CPU = torch.device("cpu")
CONFIG = DiagnosticsConfig(ratios=(0.25, 1.0), grid=4, fill="mean")


def object_images(root: Path, source: str) -> LabelledImages:
    """Class colours in the left half of grey images, whose maps mark the left half."""
    images, masks = [], []
    for number in range(12):
        image = np.full((SIZE, SIZE, 3), 20 * (number % 5) + 60, dtype=np.uint8)
        image[:, : SIZE // 2] = 0
        image[:, : SIZE // 2, number % 3] = 250
        images.append(image)
        mask = np.zeros((SIZE, SIZE), dtype=np.float32)
        mask[:, : SIZE // 2] = 1
        masks.append(mask)
    write_images(root, images, [n % 3 for n in range(12)], ("r", "g", "b"), saliency=masks)
    info = root / "dataset.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"saliency": {"source": source}}))
    return open_labelled(root)


class Half(nn.Module):
    """Sees the means of the left or of the right half."""

    def __init__(self, columns: slice) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW[..., self.columns].mean(dim=(2, 3))


LEFT, RIGHT = Half(slice(0, SIZE // 2)), Half(slice(SIZE // 2, SIZE))


def subject(network: nn.Module) -> Subject:
    made = colours_subject()
    # No resizing: a view is the image itself, so its halves are the mask's.
    wanted = dataclasses.replace(made.info.preprocessing, resize=SIZE)
    info = dataclasses.replace(made.info, preprocessing=wanted)
    return dataclasses.replace(made, network=network, info=info)


def look(
    network: nn.Module, images: LabelledImages, config: DiagnosticsConfig = CONFIG
) -> dict[str, DiagnosticFigure]:
    encoder = subject(network)
    features, _ = gathered_features(
        encoder.network,
        images,
        encoder.extract_config(batch_size=5, bf16=False),
        prepare=encoder.prepare,
        device=CPU,
    )
    found = diagnose(
        encoder, images, config, features_VD=features, device=CPU, seed=0, batch_size=5
    )
    return {f"{figure.name} {figure.variant}".strip(): figure for figure in found}


def test_masks_where_the_encoder_does_not_look(tmp_path: Path) -> None:
    images = object_images(tmp_path / "set", "made")
    right, left = look(RIGHT, images), look(LEFT, images)
    for ratio in ("0.25", "1"):
        assert right[f"cosine foreground {ratio}"].value == pytest.approx(1, abs=1e-5)
        assert left[f"cosine background {ratio}"].value == pytest.approx(1, abs=1e-5)
    # The fill is the view's mean, which still has some of the object's colour.
    assert left["cosine foreground 1"].value < 0.98
    assert right["cosine background 1"].value < 0.98
    shares = {name: f.settings.get("masked_share_of_view") for name, f in left.items()}
    assert shares["cosine foreground 0.25"] == pytest.approx(2 / 16)
    assert shares["cosine foreground 1"] == pytest.approx(8 / 16)
    assert shares["cosine random 0.25"] == pytest.approx(4 / 16)


def test_images_that_are_all_foreground_have_no_background(tmp_path: Path) -> None:
    made = object_images(tmp_path / "set", "made")
    images = [made.image(number) for number in range(12)]
    write_images(tmp_path / "flat", images, [n % 3 for n in range(12)], ("r", "g", "b"))
    flat = look(LEFT, open_labelled(tmp_path / "flat"))
    assert "cosine background 1" not in flat
    # The foreground is the whole view then.
    assert flat["cosine foreground 1"].value == pytest.approx(flat["cosine random 1"].value)
    assert flat["cosine foreground 1"].settings["masked_share_of_view"] == 1.0


def test_every_figure_has_an_interval(tmp_path: Path) -> None:
    for name, figure in look(LEFT, object_images(tmp_path / "set", "made")).items():
        if name == "effective_rank":  # 12 images are too few
            assert figure.interval is None
            continue
        assert figure.interval is not None
        low, high = figure.interval
        assert low - 1e-6 <= figure.value <= high + 1e-6, name


def test_folders_have_random_masks_only(tmp_path: Path) -> None:
    images = open_labelled(write_folders(tmp_path / "folders", 9, seed=0))
    names = set(look(LEFT, images, dataclasses.replace(CONFIG, max_images=6)))
    assert names == {
        "alignment",
        "uniformity",
        "effective_rank",
        "cosine random 0.25",
        "cosine random 1",
    }


def test_the_same_seed_says_the_same(tmp_path: Path) -> None:
    images = object_images(tmp_path / "set", "made")
    assert look(LEFT, images) == look(LEFT, images)


@pytest.mark.parametrize("fill", ["mean", "blur", "high_pass"])
def test_every_fill(tmp_path: Path, fill: str) -> None:
    images = object_images(tmp_path / "set", "made")
    found = look(LEFT, images, dataclasses.replace(CONFIG, fill=fill))
    assert found["cosine foreground 1"].settings["fill"] == fill
    assert -1 <= found["cosine foreground 1"].value <= 1


def test_bad_settings() -> None:
    for settings in ({"ratios": (0.0,)}, {"ratios": ()}, {"max_images": 1}, {"fill": "noise"}):
        with pytest.raises(InputError, match=r"wanted some in|2 or more|unknown fill"):
            DiagnosticsConfig(**settings)
    assert [DiagnosticsConfig().grid_of(size) for size in (64, 224, 42, 20)] == [8, 8, 7, 4]
    with pytest.raises(InputError, match=r"18 px cannot be cut.*diagnostics\.grid"):
        DiagnosticsConfig().grid_of(18)
