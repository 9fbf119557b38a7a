"""How good must a map be? Exchange in the object head with saliency from several places.

The pictures of table `backgrounds`, with larger crops.
Each source but the true masks and the controls is label-free. `shuffled` has the `boundary` map of
another picture.
"""

from dataclasses import replace

from tests.benchmarks.ablation_table import Options
from tests.benchmarks.tables.backgrounds import EXCHANGE, LARGER

OBJECT_EXCHANGE: Options = {"method.object-head": "exchange", **EXCHANGE}
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
    LARGER,
    name="maps",
    about="Exchange in the object head with maps from several places.",
    arms={
        "none": {},
        **dict.fromkeys(SOURCES, OBJECT_EXCHANGE),
        "shuffled": {**OBJECT_EXCHANGE, "masks.strategy": "shuffled", "masks.probability": 0.0},
    },
    sources=SOURCES,
)
