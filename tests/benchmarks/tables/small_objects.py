"""Small objects, 3 to 10 % of the picture: does a balanced mask differ from a random one here?

Masks of the query hide 0.2 to 0.5 of 4 x 4 patches, so that a random one can hide a whole object.
Every strategy masks the same expected number of patches. Otherwise as table `backgrounds`.
"""

from dataclasses import replace
from functools import partial

from tests.benchmarks.ablation_table import Options
from tests.benchmarks.tables import backgrounds
from tests.benchmarks.tables.backgrounds import LARGER

TRUE_MASKS = "external"


def _arms() -> dict[str, Options]:
    arms: dict[str, Options] = {"none": {}}
    for strategy in ("random", "balanced", "attmask_high", "attmask_low", "learned"):
        masked: Options = {"masks.strategy": strategy, "masks.probability": 1.0}
        arms[strategy] = masked
        if strategy not in ("random", "learned"):
            arms[f"{strategy}, true masks"] = masked
    return arms


ARMS = _arms()
TABLE = replace(
    LARGER,
    name="small_objects",
    about="Masks of the query where objects are small; otherwise as table backgrounds.",
    common=LARGER.common | {"masks.query-ratio": (0.2, 0.5), "masks.attmask.ratio": (0.2, 0.5)},
    arms=ARMS,
    prepare=partial(backgrounds.prepare, object_share=(0.03, 0.1)),
    data_of="",
    sources={arm: TRUE_MASKS for arm in ARMS if arm.endswith("true masks")},
)
