"""Which samples a run has trained on, as one number: two runs with the same have seen the same.

The digest of a run is the sum, modulo 2^64, of a hash of (step, place in the global batch, sample)
over all that it has seen. A sum does not ask who adds first, so every rank adds up its own share,
and no sample number ever crosses ranks.
"""

import numpy as np
from numpy.typing import NDArray

from training.randomness.draws import sample_seeds

PROVENANCE_DOMAIN = 0x50524F56
"""Keeps these hashes apart from the draws of samples and from the order's."""


def samples_digest(step: int, places: range, sample_ids_B: NDArray[np.int64]) -> int:
    """The part of a run's digest that one rank's share of one global step adds.

    Args:
        step: global step.
        places: positions of the share in the global batch.
        sample_ids_B: row numbers of its samples, int64.

    Returns:
        A number in [0, 2^64).
    """
    assert len(places) == len(sample_ids_B), (places, len(sample_ids_B))
    hashes_B = sample_seeds(PROVENANCE_DOMAIN, step, sample_ids_B)
    # An odd factor for every place: the same samples in another order are another batch.
    factors_B = np.arange(places.start, places.stop, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return int((hashes_B * factors_B).sum(dtype=np.uint64))
