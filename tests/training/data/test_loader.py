"""An error of the dataset arrives as it is, whichever process finds it."""

import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from torch.utils.data import Dataset

from pipeline.core.errors import DamagedSample
from training.data.loader import make_loader


class Numbers(Dataset[Any]):
    """Numbers, of which 4 is wrong."""

    def __init__(self, wrong: Exception) -> None:
        self.wrong = wrong

    def __getitem__(self, index: int) -> int:
        if index == 4:
            raise self.wrong
        return index


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_arrives_in_its_order_and_a_defect_with_its_traceback(num_workers: int) -> None:
    defect = RuntimeError("a defect"), "Traceback(.|\n)*a defect" if num_workers else "a defect"
    for wrong, message in ((DamagedSample("4 is damaged"), "^4 is damaged$"), defect):
        dataset = Numbers(wrong)
        items: Iterator[Any] = make_loader(
            dataset, start_step=2, stop_step=6, num_workers=num_workers, pin_memory=False
        )
        assert [next(items), next(items)] == [2, 3]
        with pytest.raises(type(wrong), match=message) as raised:
            next(items)
        # Frees the loader, so that its process ends at once; the garbage collector waits for 5 s.
        traceback.clear_frames(raised.tb)
