"""What is said of a set's maps."""

import re

import numpy as np
import pytest

from pipeline.saliency.foreground import separability
from pipeline.saliency.worth import separable_share, worth_of


def test_a_blob_is_clear_and_a_slope_is_not() -> None:
    rows, columns = np.mgrid[:7, :7]
    blob = np.exp(-((rows - 3) ** 2 + (columns - 3) ** 2) / 4)
    slope = (rows + columns) / 12
    clear = [bool(separable_share(separability(one[None]).tolist())) for one in (blob, slope)]
    assert clear == [True, False]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.8, 0.78, 0.7], "67% of 3 maps set an object apart clearly; with such maps"),
        ([0.9], "100% of 1 map set an object"),
        ([0.8, 0.7], "50% of 2 maps set an object apart clearly; with such"),
        (
            [0.77, 0.8, 0.7],
            r"33% of 3 maps .* clearly\. .* 50% or more .*, with fewer",
        ),
        ([], "not known: manifests of an earlier version"),
    ],
)
def test_few_clear_maps_want_a_look(values: list[float], words: str) -> None:
    assert re.search(words, worth_of(values))
