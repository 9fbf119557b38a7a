from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from tests.training.evaluate.cases import Colours, case_of, folders
from training.evaluate import sgd
from training.evaluate.case import Case
from training.evaluate.features import Batch

EVERY = np.arange(10)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    images = folders(tmp_path, 10, seed=0)
    return case_of(Colours(), images, images)


def batches(case: Case, chosen: NDArray[np.int64]) -> list[Batch]:
    return list(sgd.training_batches(case, chosen, steps=5, batch_size=4, work="batches"))


def test_every_pass_has_every_chosen_image_once(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    image = case.train.image

    def watched(number: int) -> NDArray[np.uint8]:
        read.append(number)
        return image(number)

    monkeypatch.setattr(case.train, "image", watched)
    chosen = np.array([1, 3, 4, 7, 9])
    batches(case, chosen)
    passes = np.array(read).reshape(4, 5)
    assert all(sorted(one) == chosen.tolist() for one in passes.tolist())
    assert len({tuple(one) for one in passes.tolist()}) > 1, "the passes are shuffled apart"


def test_the_same_views_for_any_number_of_ranks(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batches(case, EVERY)
    assert whole[0][0].shape == (4, 3, 16, 16)
    other = replace(case, config=replace(case.config, seed=1))
    assert not torch.equal(batches(other, EVERY)[0][0], whole[0][0])
    parts = []
    monkeypatch.setattr(sgd, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(sgd, "rank", lambda rank=rank: rank)
        parts.append(batches(case, EVERY))
    for step, (views, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), views)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), labels)
    monkeypatch.setattr(sgd, "world_size", lambda: 3)
    with pytest.raises(InputError, match="batch of 4 cannot be split over 3 ranks"):
        batches(case, EVERY)
