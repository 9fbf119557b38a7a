"""Where does it turn? Weight and hidden share of the hard negatives; the same in MoCo v2.

The pictures and settings of table `backgrounds`. Hard negatives in the common head, as their weight
was calibrated there, and in the object head.
"""

from dataclasses import replace
from itertools import product

from tests.benchmarks.ablation_table import Options
from tests.benchmarks.tables.backgrounds import EXCHANGE, HARD, LARGER, MORE_EXCHANGE, OWN

HIDDEN = {"0.4 to 0.7": (0.4, 0.7), "0.7 to 1": (0.7, 1.0), "all": (1.0, 1.0)}
MOCO: Options = {
    "recipe": "moco_v2_small",
    "method.hard-negatives": 0,
    "method.object-head": "off",
    "optim.lr": 0.01,
}


def _arms() -> dict[str, Options]:
    arms: dict[str, Options] = {"none": {}}
    for rho, (name, hidden) in product((1.5, 2.0, 2.5), HIDDEN.items()):
        hides: Options = {"masks.negative-ratio": hidden}
        arms[f"own, rho {rho}, {name}"] = {**OWN, "method.rho": rho, **hides}
    for rho in (2.0, 3.0, 4.0):
        head: Options = {"method.object-head": "hard", **HARD, "method.object-rho": rho}
        arms[f"object hard, rho {rho}"] = head
    both: Options = {"method.object-head": "both", **HARD, **EXCHANGE}
    return arms | {
        "moco none": MOCO,
        "moco none, lr 0.03": {**MOCO, "optim.lr": 0.03},
        "moco own": {**MOCO, **OWN},
        "moco exchange": {**MOCO, **MORE_EXCHANGE},
        "moco object exchange": {**MOCO, "method.object-head": "exchange", **EXCHANGE},
        "moco object both": {**MOCO, **both},
    }


TABLE = replace(
    LARGER,
    name="doses",
    about="Weight and hidden share of the hard negatives; the pictures of table backgrounds.",
    arms=_arms(),
)
