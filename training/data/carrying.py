"""Errors of a loader's processes, carried home whole.

torch raises what a loader's process raised as a text with that process's traceback in it. What a
person gave and is wrong is to be one clear line, wherever it was found.
"""

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.core.errors import JobError

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Carried:
    error: JobError


class _Carrying(Dataset[Item | _Carried]):
    """A dataset whose ``JobError`` becomes an item."""

    def __init__(self, dataset: Dataset[Item]) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> Item | _Carried:
        """The item, or the error."""
        try:
            return self._dataset[index]
        except JobError as error:
            return _Carried(error)


def _as_it_is(item: Any) -> Any:  # noqa: ANN401  (torch would make lists and tensors of it)
    return item


class CarryingLoader(Generic[Item]):
    """Items of a dataset, one by one, from this process or others.

    Args:
        dataset: raises ``JobError`` with one line for a person.
        sampler: which items, in order.
        num_workers: processes; 0 loads in this one.
        options: those of ``torch.utils.data.DataLoader``.
    """

    def __init__(
        self,
        dataset: Dataset[Item],
        *,
        sampler: Sampler[int],
        num_workers: int,
        **options: Any,  # noqa: ANN401
    ) -> None:
        assert isinstance(sampler, Sized)
        self._length = len(sampler)
        self._loader: DataLoader[Item | _Carried] = DataLoader(
            _Carrying(dataset),
            batch_size=None,
            collate_fn=_as_it_is,
            sampler=sampler,
            num_workers=num_workers,
            **options,
        )

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        """The items; raises the ``JobError`` where one stands for an item."""
        for item in self._loader:
            if isinstance(item, _Carried):
                raise item.error
            yield item
