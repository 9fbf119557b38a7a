"""Means, timings, counts and the digest of samples, over steps, restarts and shares of ranks."""

import numpy as np
import pytest
import torch

from training.record.totals import Interval, Tally, samples_digest

HUGE = (1 << 64) - 1
IDS = np.array([5, 3, 11, 7], dtype=np.int64)


def test_means_over_steps_and_last_constants() -> None:
    interval, value = Interval(), torch.tensor(1.0)
    for step in range(3):
        interval.add({"loss": value, "other": value * step}, lr=step)
    values = interval.finish(batch_size=4)
    assert (values["loss"], values["other"], values["lr"]) == (1.0, 1.0, 2)
    assert value == 1.0, "adding changes what was added"
    interval.add({"loss": torch.tensor(5.0)})
    assert interval.finish(batch_size=4)["loss"] == 5.0


def test_an_interval_cut_in_two_has_the_same_means() -> None:
    whole, first, second = Interval(), Interval(), Interval()
    for number, value in enumerate(torch.rand(5)):
        whole.add({"loss": value})
        if number == 2:
            first.average_over_ranks()
            second.sums, second.steps = first.sums, first.steps
        (first if number < 2 else second).add({"loss": value})
    assert second.finish(1)["loss"] == whole.finish(1)["loss"]


def test_waiting_is_counted_and_pauses_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("training.record.totals.time.perf_counter", lambda: clock[0])

    def pass_seconds(seconds: float) -> None:
        clock[0] += seconds

    interval = Interval()
    interval.start_clock()
    for _ in range(2):
        pass_seconds(1)
        interval.stop_waiting()
        pass_seconds(3)
        with interval.paused():
            pass_seconds(50)
        interval.add({"loss": torch.tensor(1.0)})
        interval.start_waiting()
    values = interval.finish(batch_size=10)
    assert values["data_wait_share"] == 2 / 8
    assert values["images_per_second"] == 2 * 10 / 8


def test_totals_add_up_modulo_a_word_and_go_on_after_a_restart() -> None:
    """Over ranks: tests/training/core/test_distributed.py, `sum_over_ranks`."""
    tally = Tally("few", "huge")
    tally.add(few=2, huge=HUGE)
    assert tally.settle() == {"few": 2, "huge": HUGE}
    tally.add(few=1)
    tally.add(few=4, huge=3)
    assert tally.settle() == tally.settle() == {"few": 7, "huge": 2}
    resumed = Tally("few", "huge")
    resumed.totals |= tally.totals
    resumed.add(few=1)
    assert resumed.settle() == {"few": 8, "huge": 2}


def test_the_digest_adds_up_over_ranks_and_tells_steps_samples_and_orders_apart() -> None:
    digest = samples_digest(9, range(4), IDS)
    for size in (1, 2):
        shares = [range(i, i + size) for i in range(0, 4, size)]
        parts = [samples_digest(9, share, IDS[share.start : share.stop]) for share in shares]
        assert sum(parts) % (1 << 64) == digest < 1 << 64
    others = {
        samples_digest(10, range(4), IDS),
        samples_digest(9, range(4, 8), IDS),
        samples_digest(9, range(4), IDS[::-1].copy()),
        samples_digest(9, range(4), IDS + 1),
    }
    assert len({digest, *others}) == 5
