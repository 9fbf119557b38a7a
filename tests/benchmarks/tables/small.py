"""The small recipes as they stand, ResNet-18 at 64 px, and the rates of their baselines.

On the photographs of table `photographs`; meant for seeds from 100 on, which choose.
"""

from tests.benchmarks.ablation_table import Options, Table
from tests.benchmarks.tables import photographs

RATES = {"simclr_small": (0.01, 0.03, 0.1), "moco_v2_small": (0.01, 0.03, 0.1)}


def _arms() -> dict[str, Options]:
    arms: dict[str, Options] = {}
    for recipe, rates in RATES.items():
        for rate in rates:
            arms[f"{recipe}_baseline, lr {rate}"] = {
                "recipe": f"{recipe}_baseline",
                "optim.lr": rate,
            }
        arms[recipe] = {"recipe": recipe}
    # In about as much time: steps of a quarter of the pixels.
    arms["simclr_small_baseline, 32 px, 4 times as long"] = {
        "recipe": "simclr_small_baseline",
        "views.size": 32,
        "views.grid": 4,
        "epochs": 40,
    }
    return arms


TABLE = Table(
    name="small",
    about="The small recipes on photographs of ten classes, half as long as they stand.",
    baseline="simclr_small_baseline, lr 0.03",
    common={"epochs": 10},  # of 4,000 photographs: 620 steps
    arms=_arms(),
    prepare=photographs.prepare,
    data_of="photographs",
)
