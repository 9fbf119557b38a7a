"""How good must a map be? The object head of table `backgrounds` with saliency from several places.

Each source but the true masks and the controls is label-free. `shuffled` has the `boundary` map of
another picture.
"""

from dataclasses import replace

from tests.benchmarks.ablation_table import Options
from tests.benchmarks.tables import backgrounds
from tests.benchmarks.tables.backgrounds import EXCHANGE, HARD

BOTH: Options = {"method.object-head": "both", **HARD, **EXCHANGE}
SOURCES = {
    "boundary": "boundary",
    "second look": "boundary:second_look=true",
    "refined": "boundary:second_look=true,refine=true",
    "spectral residual": "spectral_residual",
    "fine grained": "fine_grained",
    "centre": "centre",
    "all is object": "uniform",
    "true masks": "external",
}

TABLE = replace(
    backgrounds.TABLE,
    name="maps",
    about="The object head with maps from several places; the pictures of table backgrounds.",
    arms={
        "none": {},
        **dict.fromkeys(SOURCES, BOTH),
        "shuffled": {**BOTH, "masks.strategy": "shuffled", "masks.probability": 0.0},
    },
    sources=SOURCES,
    data_of="backgrounds",
)
