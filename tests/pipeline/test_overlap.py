"""Results in order, errors in their turn, and no more ahead than was allowed."""

import threading
from collections.abc import Iterator

import pytest

from pipeline.overlap import overlapped

PATIENCE = 20.0
"""Seconds after which a test that waits for a thread gives up."""


def square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ahead", [1, 2, 50])
def test_it_is_map(threads: int, ahead: int) -> None:
    results = overlapped(square, iter(range(40)), threads=threads, ahead=ahead)
    assert list(results) == [square(number) for number in range(40)]
    assert list(overlapped(square, [], threads=threads, ahead=ahead)) == []


def test_a_slow_first_result_still_comes_first() -> None:
    others_done = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert others_done.wait(PATIENCE)
        if number == 3:
            others_done.set()
        return number

    assert list(overlapped(work, range(5), threads=2, ahead=5)) == [0, 1, 2, 3, 4]


def test_the_next_item_is_worked_on_while_one_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]

    def work(number: int) -> int:
        begun[number].set()
        return number

    results = overlapped(work, range(3), ahead=2)
    assert not begun[0].is_set(), "nothing is begun before the first result is asked for"
    assert next(results) == 0
    assert begun[1].wait(PATIENCE), "nobody has asked for it yet"
    assert list(results) == [1, 2]


def test_no_more_is_begun_than_was_allowed() -> None:
    begun: list[int] = []
    reached = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if len(begun) == 6:
            reached.set()
        return number

    results = overlapped(work, range(100), threads=2, ahead=5)
    assert next(results) == 0
    assert reached.wait(PATIENCE)  # one taken and five ahead
    for taken in range(1, 90):
        assert next(results) == taken
        assert len(begun) <= taken + 1 + 5
    results.close()
    assert len(begun) <= 95


def test_large_results_hold_the_threads_back() -> None:
    waiting: set[int] = set()
    most = 0
    lock = threading.Lock()

    def work(number: int) -> int:
        nonlocal most
        with lock:
            waiting.add(number)
            most = max(most, len(waiting))
        return number

    for number in overlapped(work, range(60), ahead=50, max_size=25, size=lambda result: 10):
        with lock:
            waiting.remove(number)
    # 10 and 20 do not exceed 25, 30 do: three are held, and the consumer has one in its hand
    assert most <= 4
    everything = overlapped(square, range(9), threads=2, max_size=0, size=lambda result: 10)
    assert list(everything) == [square(number) for number in range(9)]


def test_an_error_is_raised_in_its_turn() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ZeroDivisionError("number 3")
        return number

    results = overlapped(work, range(10), threads=3, ahead=10)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="number 3"):
        next(results)
    assert list(results) == []


def test_an_error_of_the_items_or_of_the_size_is_raised_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("no third")

    results = overlapped(square, items(), threads=2)
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(KeyError, match="no third"):
        next(results)
    with pytest.raises(ZeroDivisionError):
        list(overlapped(square, range(3), size=lambda result: 1 // result))


def test_closing_ends_the_threads() -> None:
    before = threading.active_count()
    results = overlapped(square, range(1000), threads=3, ahead=4)
    assert next(results) == 0
    assert threading.active_count() == before + 3
    results.close()
    assert threading.active_count() == before


def test_an_item_that_is_long_in_coming_holds_no_result_back() -> None:
    first_taken = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert first_taken.wait(PATIENCE), "the first result waits for the second item"
        yield 1

    results = overlapped(square, items())
    assert next(results) == 0
    first_taken.set()
    assert list(results) == [1]


def test_no_threads_or_nothing_ahead_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        overlapped(square, range(3), threads=0)
    with pytest.raises(ValueError, match="at least 1"):
        overlapped(square, range(3), ahead=0)
