"""A damaged sample: an error that names it, or the batch's next good one for any split."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import DamagedSample
from training.data.damage import DAMAGED_FILE, DamageLog, OnDamaged
from training.data.stream import read_positions
from training.views.inputs import Damage

SIZE = 6


def positions_read(
    damaged: set[int], positions: range, on_damaged: OnDamaged = "skip"
) -> tuple[list[int], tuple[Damage, ...]]:
    asked: list[int] = []

    def read(position: int) -> int:
        assert position not in asked, "read once"
        asked.append(position)
        if position in damaged:
            raise DamagedSample(f"sample {position} is damaged")
        return position

    found = read_positions(read, positions, batch_size=SIZE, on_damaged=on_damaged)
    if not damaged & {position % SIZE for position in positions}:
        assert asked == [position % SIZE for position in positions], "no others are read"
    return found


def test_the_next_good_sample_of_the_global_batch_stands_in() -> None:
    """After the last one comes the first."""
    assert positions_read({0}, range(2, 4)) == ([2, 3], ())
    assert positions_read(set(), range(5, 7)) == ([5, 0], ())
    assert positions_read({3, 4, 5}, range(2, 4)) == ([2, 0], (Damage(1, "sample 3 is damaged"),))
    items, damages = positions_read({3, 4}, range(3, 6))
    assert items == [5, 5, 5]
    assert [damage.position for damage in damages] == [0, 1]
    with pytest.raises(DamagedSample, match=r"^sample 3 is damaged$"):
        positions_read({3}, range(2, 4), "raise")
    with pytest.raises(DamagedSample, match=r"all 6 samples of a global batch .*: sample 2 is"):
        positions_read(set(range(SIZE)), range(2, 4))


@given(damaged=st.sets(st.integers(0, 5), max_size=5), ranks=st.sampled_from([1, 2, 3, 6]))
def test_every_split_over_ranks_gives_the_same_batch(damaged: set[int], ranks: int) -> None:
    whole, damages = positions_read(damaged, range(SIZE))
    size = SIZE // ranks
    parts = [positions_read(damaged, range(r * size, (r + 1) * size)) for r in range(ranks)]
    assert [item for items, _ in parts for item in items] == whole
    assert not damaged & set(whole)
    together = [d.position + r * size for r, (_, found) in enumerate(parts) for d in found]
    assert together == [d.position for d in damages] == sorted(damaged)


def test_each_damaged_sample_is_named_once(tmp_path: Path) -> None:
    log = DamageLog(tmp_path)
    log.note(0, ())
    assert not (tmp_path / DAMAGED_FILE).exists()
    log.note(3, ["first", "second"])
    log.note(7, ["first", "third"])
    lines = (tmp_path / DAMAGED_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 3, "reason": "first"},
        {"step": 3, "reason": "second"},
        {"step": 7, "reason": "third"},
    ]
