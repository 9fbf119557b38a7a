"""The digest of what was trained on: the same for any split over ranks, another for other data."""

import numpy as np

from training.record.provenance import samples_digest

IDS = np.array([5, 3, 11, 7], dtype=np.int64)


def test_the_shares_of_the_ranks_add_up_to_the_whole() -> None:
    whole = samples_digest(9, range(4), IDS)
    assert 0 <= whole < 1 << 64
    for size in (1, 2):
        parts = [
            samples_digest(9, range(i, i + size), IDS[i : i + size]) for i in range(0, 4, size)
        ]
        assert sum(parts) % (1 << 64) == whole


def test_another_step_sample_or_order_is_another_digest() -> None:
    digests = {
        samples_digest(9, range(4), IDS),
        samples_digest(10, range(4), IDS),
        samples_digest(9, range(4, 8), IDS),
        samples_digest(9, range(4), IDS[::-1].copy()),
        samples_digest(9, range(4), IDS + 1),
    }
    assert len(digests) == 5
