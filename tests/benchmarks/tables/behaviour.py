"""The paper's text against the code that was published with it (`masks.behaviour`).

The pictures and settings of table `backgrounds`, with MoCo v2, the paper's numbers and high-pass
views, as in both.
"""

from dataclasses import replace

from tests.benchmarks.ablation_table import Options
from tests.benchmarks.tables.backgrounds import LARGER, PAPER
from tests.benchmarks.tables.doses import MOCO

HIGH_PASS: Options = {**MOCO, **PAPER, "fill": "high_pass"}
MASKED: Options = {**HIGH_PASS, "masks.strategy": "balanced", "method.hard-negatives": 1}

TABLE = replace(
    LARGER,
    name="behaviour",
    about="masks.behaviour paper and released; the pictures of table backgrounds.",
    baseline="none, high-pass",
    arms={
        "none": {**MOCO, **PAPER},
        "none, high-pass": HIGH_PASS,
        "paper": {**MASKED, "method.rho": 2.0},
        "released": {**MASKED, "method.rho": 2.0, "masks.behaviour": "released"},
        "paper, masks alone": {**MASKED, "method.hard-negatives": 0},
        "released, masks alone": {
            **MASKED,
            "method.hard-negatives": 0,
            "masks.behaviour": "released",
        },
    },
)
