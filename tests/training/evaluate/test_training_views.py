from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from tests.training.evaluate.cases import write_folders
from training.evaluate import training_views
from training.evaluate.labelled import LabelledImages, open_labelled
from training.evaluate.training_views import training_batches

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture
def images(tmp_path: Path) -> LabelledImages:
    return open_labelled(write_folders(tmp_path / "folders", 10, seed=0))


def batches(
    images: LabelledImages, chosen: NDArray[np.int64], *, seed: int = 0, steps: int = 5
) -> Batches:
    return list(
        training_batches(
            images, chosen, steps=steps, batch_size=4, view_size=16, seed=seed, num_threads=2
        )
    )


def test_every_pass_has_every_chosen_image_once(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr("training.views.crops.cut_views", lambda _, crops, out: out.fill(0))
    image = images.image

    def watched(number: int) -> NDArray[np.uint8]:
        read.append(number)
        return image(number)

    monkeypatch.setattr(images, "image", watched)
    chosen = np.array([1, 3, 4, 7, 9])
    list(
        training_batches(images, chosen, steps=5, batch_size=4, view_size=16, seed=0, num_threads=1)
    )
    passes = np.array(read).reshape(4, 5)
    assert all(sorted(one) == chosen.tolist() for one in passes.tolist())
    assert len({tuple(one) for one in passes.tolist()}) > 1, "the passes are shuffled apart"


def test_the_same_views_for_any_number_of_ranks(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batches(images, np.arange(10))
    assert whole[0][0].shape == (4, 3, 16, 16)
    parts: list[Batches] = []
    for rank in range(2):
        monkeypatch.setattr(training_views, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(training_views, "world_size", lambda: 2)
        parts.append(batches(images, np.arange(10)))
    for step, (views, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), views)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), labels)
    monkeypatch.setattr(training_views, "world_size", lambda: 3)
    with pytest.raises(InputError, match="batch of 4 cannot be split over 3 ranks"):
        batches(images, np.arange(10))


def test_seeds_make_other_views(images: LabelledImages) -> None:
    first, again, other = (batches(images, np.arange(10), seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
