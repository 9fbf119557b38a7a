import time
from collections.abc import Iterator

import pytest
import torch

from training.record.interval import Interval


def test_means_over_steps_and_last_constants() -> None:
    interval = Interval()
    for value in (1.0, 2.0, 6.0):
        interval.add({"loss": torch.tensor(value)})
        interval.set(lr=value)
    values = interval.finish(batch_size=4)
    assert (values["loss"], values["lr"]) == (3.0, 6.0)
    interval.add({"loss": torch.tensor(5.0)})
    assert interval.finish(batch_size=4)["loss"] == 5.0


def test_an_interval_cut_in_two_has_the_same_means() -> None:
    whole, first, second = Interval(), Interval(), Interval()
    values = torch.rand(5)
    for value in values:
        whole.add({"loss": value})
    for value in values[:2]:
        first.add({"loss": value})
    first.average_over_ranks()
    second.load_state_dict(first.state_dict())
    for value in values[2:]:
        second.add({"loss": value})
    assert second.finish(1)["loss"] == whole.finish(1)["loss"]


def test_adding_does_not_change_what_was_added() -> None:
    interval, value = Interval(), torch.tensor(1.0)
    interval.add({"loss": value})
    interval.add({"loss": value})
    assert value == 1.0


def test_waiting_is_counted_and_pauses_are_not() -> None:
    class Slow:
        def __iter__(self) -> Iterator[int]:
            self.left = 2
            return self

        def __next__(self) -> int:
            if not self.left:
                raise StopIteration
            self.left -= 1
            time.sleep(0.1)
            return self.left

    interval = Interval()
    interval.start_clock()
    for _ in interval.timed(Slow()):
        time.sleep(0.1)
        with interval.paused():
            time.sleep(0.3)
        interval.add({"loss": torch.tensor(1.0)})
    values = interval.finish(batch_size=10)
    # 0.2 s of waiting and 0.2 s of work; sleeping may take longer, by some share of it.
    assert values["data_wait_share"] == pytest.approx(0.5, abs=0.15)
    assert 25 < values["images_per_second"] <= 50
