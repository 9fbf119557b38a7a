"""Work done ahead in threads: the next images are decoded while these ones are computed."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def overlapped(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int = 1,
    ahead: int = 32,
    max_size: int | None = None,
    size: Callable[[Result], int] = lambda result: 1,
) -> Generator[Result, None, None]:
    """`map(function, items)`, where threads work ahead of whoever takes the results.

    Results come in order, and so do errors: what `function`, `size` or `items` raises is raised
    in its turn, after all earlier results, and ends the iteration. Nothing is begun before the
    first result is asked for. When the iterator is closed, or nobody holds it any more, the
    threads end with the item that they are at.

    Args:
        function: called in the threads; with `threads` above 1 it must allow for that.
        items: taken one at a time, by one thread at a time.
        threads: how many items are worked on at once.
        ahead: how many items may be begun that nobody has taken the result of; at least 1.
        max_size: no item is begun while finished results that wait are larger than this, taken
            together, but for the one that is waited for: so at most `max_size` and `threads`
            results are held.
        size: of a result, in any unit.

    Raises:
        ValueError: fewer than one thread, or than one item ahead.
    """
    if threads < 1 or ahead < 1:
        raise ValueError(f"got {threads} threads, {ahead} ahead: wanted at least 1 of each")
    return _results(_Ahead(function, items, ahead=ahead, max_size=max_size, size=size), threads)


def _results(work: "_Ahead[Item, Result]", threads: int) -> Generator[Result, None, None]:
    crew = [threading.Thread(target=work.run, daemon=True) for _ in range(threads)]
    for thread in crew:
        thread.start()
    try:
        yield from work
    finally:
        work.close()
        for thread in crew:
            thread.join()


class _Ahead(Generic[Item, Result]):
    """What the threads share; numbers count items from 0."""

    def __init__(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        ahead: int,
        max_size: int | None,
        size: Callable[[Result], int],
    ) -> None:
        self._function, self._items, self._size = function, iter(items), size
        self._ahead, self._max_size = ahead, max_size
        self._source = threading.Lock()
        self._changed = threading.Condition()
        self._done: dict[int, tuple[Result, int]] = {}
        self._failed: dict[int, BaseException] = {}
        self._held = 0
        self._begun = 0
        self._taken = 0
        self._ended = False

    def run(self) -> None:
        """Work until there is nothing more to begin; in each thread."""
        while (begun := self._begin()) is not None:
            number, item = begun
            try:
                result = self._function(item)
                size = self._size(result)
            except BaseException as error:  # raised where the result is taken
                self._fail(number, error)
                return
            with self._changed:
                self._done[number] = (result, size)
                self._held += size
                self._changed.notify_all()
            del begun, item, result  # else the thread would hold them while it waits

    def close(self) -> None:
        """Begin nothing more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Result]:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_take)
                number = self._taken
                if number in self._failed:
                    raise self._failed.pop(number)
                if number not in self._done:
                    return
                result, size = self._done.pop(number)
                self._held -= size
                self._taken += 1
                self._changed.notify_all()
            yield result
            del result

    def _begin(self) -> tuple[int, Item] | None:
        """The next item and its number, as soon as it may be begun; None at the end."""
        with self._source:  # not the condition's lock: an item may be long in coming
            with self._changed:
                self._changed.wait_for(self._may_begin)
                if self._ended:
                    return None
                number = self._begun
            try:
                item = next(self._items)
            except StopIteration:
                self.close()
                return None
            except BaseException as error:  # raised in its turn
                self._fail(number, error)
                return None
            with self._changed:
                self._begun += 1
            return number, item

    def _fail(self, number: int, error: BaseException) -> None:
        with self._changed:
            self._failed[number] = error
            self._begun = max(self._begun, number + 1)
            self._ended = True
            self._changed.notify_all()

    def _may_begin(self) -> bool:
        if self._ended or self._begun == self._taken:
            return True
        fits = self._max_size is None or self._held <= self._max_size
        return fits and self._begun - self._taken < self._ahead

    def _may_take(self) -> bool:
        is_there = self._taken in self._done or self._taken in self._failed
        return is_there or (self._ended and self._taken == self._begun)
