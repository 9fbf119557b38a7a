"""By how much images may be reduced as they are decoded: no crop is to lose pixels of its view.

Shapes: B images.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.randomness.draws import view_number
from training.views.crops import draw_crops
from training.views.spec import Crop

MOST = 8
"""An eighth of a side is the least that libjpeg decodes."""


def reductions(
    seeds_B: NDArray[np.uint64], sizes_B2: NDArray[np.int64], crops: Sequence[Crop]
) -> list[int]:
    """By how much images of these heights and widths may be reduced: 1, 2, 4 or 8.

    Of crops that are drawn again all attempts count: which one is taken depends on the maps.
    """
    least_B, sides = np.full(len(seeds_B), float(MOST)), tuple(sizes_B2.T)
    for crop in crops:
        view, cut = view_number(crop.name), crop.cut
        for attempt in range(1 if crop.aware is None else crop.aware.tries):
            boxes = draw_crops(seeds_B, *sides, view=view, config=cut, attempt=attempt)
            least_B = np.minimum(least_B, np.minimum(boxes.height_B, boxes.width_B) / cut.size)
    return [1 << max(1, int(least)).bit_length() - 1 for least in least_B]
