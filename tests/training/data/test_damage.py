"""A damaged sample: an error that names it, or the batch's next good one, whoever asks."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import DamagedSample
from training.data.damage import DAMAGED_FILE, DamageLog, read_places
from training.data.settings import OnDamaged
from training.views.host_batch import Damage

IDS = [70, 10, 50, 30, 90, 20]


class Reader:
    """Gives sample numbers back, and remembers which were asked for."""

    def __init__(self, damaged: set[int]) -> None:
        self.damaged = damaged
        self.asked: list[int] = []

    def __call__(self, sample_id: int) -> int:
        self.asked.append(sample_id)
        if sample_id in self.damaged:
            raise DamagedSample(f"sample {sample_id} is damaged")
        return sample_id


def places_read(
    reader: Reader, places: range, on_damaged: OnDamaged
) -> tuple[list[int], tuple[Damage, ...]]:
    return read_places(reader, IDS.__getitem__, places, batch_size=len(IDS), on_damaged=on_damaged)


def test_sound_samples_are_read_once_each_and_no_others() -> None:
    reader = Reader({70})
    assert places_read(reader, range(2, 4), "skip") == ([50, 30], ())
    assert reader.asked == [50, 30]


def test_raise_lets_the_name_through() -> None:
    with pytest.raises(DamagedSample, match="sample 30 is damaged"):
        places_read(Reader({30}), range(2, 4), "raise")


def test_the_next_good_sample_of_the_global_batch_takes_the_place() -> None:
    reader = Reader({30, 90, 20})
    items, damages = places_read(reader, range(2, 4), "skip")
    assert items == [50, 70]  # from the end on at the beginning
    assert damages == (Damage(1, "sample 30 is damaged"),)
    items, damages = places_read(Reader({30, 90}), range(3, 6), "skip")
    assert items == [20, 20, 20]
    assert [damage.position for damage in damages] == [0, 1]


def test_places_beyond_the_end_begin_again() -> None:
    assert places_read(Reader(set()), range(5, 7), "skip")[0] == [20, 70]


def test_a_batch_without_a_good_sample_is_an_error() -> None:
    with pytest.raises(
        DamagedSample, match=r"all 6 samples of a global batch are damaged.*sample 50"
    ):
        places_read(Reader(set(IDS)), range(2, 4), "skip")


@given(damaged=st.sets(st.sampled_from(IDS), max_size=5), ranks=st.sampled_from([1, 2, 3, 6]))
def test_every_split_over_ranks_gives_the_same_batch(damaged: set[int], ranks: int) -> None:
    whole, damages = places_read(Reader(damaged), range(6), "skip")
    size = 6 // ranks
    parts = [
        places_read(Reader(damaged), range(r * size, (r + 1) * size), "skip") for r in range(ranks)
    ]
    assert [item for items, _ in parts for item in items] == whole
    assert not damaged & set(whole)
    together = [d.position + r * size for r, (_, found) in enumerate(parts) for d in found]
    assert together == [d.position for d in damages]
    assert {IDS[place] for place in together} == damaged


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
