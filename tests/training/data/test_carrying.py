"""What is wrong with the input is one line, whichever process finds it."""

import pytest
from torch.utils.data import Dataset, SequentialSampler

from pipeline.core.errors import DamagedSample
from training.data.carrying import CarryingLoader


class Numbers(Dataset[int]):
    """Four numbers, of which the third is wrong."""

    def __init__(self, wrong: Exception) -> None:
        self.wrong = wrong

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index == 2:
            raise self.wrong
        return index


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_wrong_input_arrives_in_its_place_as_it_was_said(num_workers: int) -> None:
    dataset = Numbers(DamagedSample("sample 2 is damaged"))
    loader = CarryingLoader(dataset, sampler=SequentialSampler(dataset), num_workers=num_workers)
    assert len(loader) == 4
    items = iter(loader)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(DamagedSample) as caught:
        next(items)
    assert str(caught.value) == "sample 2 is damaged"


def test_a_defect_keeps_its_traceback() -> None:
    dataset = Numbers(RuntimeError("a defect"))
    loader = CarryingLoader(dataset, sampler=SequentialSampler(dataset), num_workers=1)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*a defect"):
        list(loader)
