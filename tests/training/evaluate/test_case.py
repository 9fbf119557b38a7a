from pathlib import Path

import pytest
import torch

from tests.training.evaluate.cases import Colours, case_of, folders


def test_an_accuracy_by_hand(tmp_path: Path) -> None:
    images = folders(tmp_path, 7, seed=0)
    case = case_of(Colours(), images, images)
    labels = torch.from_numpy(images.labels())
    assert labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    predicted = labels.clone()
    predicted[1:3] = 1
    found = case.accuracy("knn", predicted, settings={"k": 5})
    assert found.figure == pytest.approx(100 * 5 / 7)
    assert found.more == {"mean_per_class": pytest.approx(100 * (1 / 3 + 1 + 1) / 3)}
    assert found.settings == {"view_size": 16, "bf16": False, "device": "cpu", "k": 5}
    (kept,) = case.predictions
    assert (kept.result, kept.class_names) == (found, images.class_names)
    assert kept.right_DV.sum() == 5
    drawn = case.accuracy("finetune", torch.stack([predicted, labels]), settings={}, num_train=3)
    assert drawn.figure == pytest.approx((found.figure + 100) / 2)
    assert (drawn.more["draw 0"], drawn.more["draw 1"]) == (pytest.approx(found.figure), 100)
    assert (drawn.num_train, drawn.num_val) == (3, 7)
