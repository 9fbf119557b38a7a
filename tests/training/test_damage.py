"""A damaged sample: an error that names it, or the batch's next good one, whoever asks."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DamagedSampleError, InputError
from training.damage import DAMAGED_FILE, Damage, DamageLog, read_places

IDS = np.array([70, 10, 50, 30, 90, 20], dtype=np.int64)


class Reader:
    """Gives sample numbers back, and remembers which were asked for."""

    def __init__(self, damaged: set[int]) -> None:
        self.damaged = damaged
        self.asked: list[int] = []

    def __call__(self, sample_id: int) -> int:
        self.asked.append(sample_id)
        if sample_id in self.damaged:
            raise DamagedSampleError(f"sample {sample_id} is damaged")
        return sample_id


def test_sound_samples_are_read_once_each_and_no_others() -> None:
    reader = Reader({70})
    assert read_places(reader, IDS, range(2, 4), on_damaged="skip") == ([50, 30], ())
    assert reader.asked == [50, 30]


def test_raise_lets_the_name_through() -> None:
    with pytest.raises(DamagedSampleError, match="sample 30 is damaged"):
        read_places(Reader({30}), IDS, range(2, 4), on_damaged="raise")


def test_the_next_good_sample_of_the_global_batch_takes_the_place() -> None:
    reader = Reader({30, 90, 20})
    items, damages = read_places(reader, IDS, range(2, 4), on_damaged="skip")
    assert items == [50, 70]  # from the end on at the beginning
    assert damages == (Damage(1, "sample 30 is damaged"),)
    items, damages = read_places(Reader({30, 90}), IDS, range(3, 6), on_damaged="skip")
    assert items == [20, 20, 20]
    assert [damage.position for damage in damages] == [0, 1]


def test_places_beyond_the_end_begin_again() -> None:
    assert read_places(Reader(set()), IDS, range(5, 7), on_damaged="skip")[0] == [20, 70]


def test_a_batch_without_a_good_sample_is_an_error() -> None:
    with pytest.raises(InputError, match=r"all 6 samples of a global batch are damaged.*sample 50"):
        read_places(Reader(set(IDS.tolist())), IDS, range(2, 4), on_damaged="skip")


@given(
    damaged=st.sets(st.sampled_from(IDS.tolist()), max_size=5), ranks=st.sampled_from([1, 2, 3, 6])
)
def test_every_split_over_ranks_gives_the_same_batch(damaged: set[int], ranks: int) -> None:
    whole, damages = read_places(Reader(damaged), IDS, range(6), on_damaged="skip")
    size = 6 // ranks
    parts = [
        read_places(Reader(damaged), IDS, range(r * size, (r + 1) * size), on_damaged="skip")
        for r in range(ranks)
    ]
    assert [item for items, _ in parts for item in items] == whole
    assert not damaged & set(whole)
    together = [d.position + r * size for r, (_, found) in enumerate(parts) for d in found]
    assert together == [d.position for d in damages]
    assert {int(IDS[place]) for place in together} == damaged


def test_each_damaged_sample_is_named_once(tmp_path: Path) -> None:
    log = DamageLog(tmp_path)
    log.note(0, ())
    assert not (tmp_path / DAMAGED_FILE).exists()
    log.note(3, [Damage(0, "first"), Damage(2, "second")])
    log.note(7, [Damage(1, "first"), Damage(5, "third")])
    lines = (tmp_path / DAMAGED_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 3, "reason": "first"},
        {"step": 3, "reason": "second"},
        {"step": 7, "reason": "third"},
    ]
