"""A method without negatives, VICReg, with exchanged backgrounds, as in table `backgrounds`."""

from dataclasses import replace

from tests.benchmarks.ablation_table import Options
from tests.benchmarks.tables import backgrounds

EXCHANGE = backgrounds.TABLE.arms["exchange"]
HEAD: Options = {"method": "vicreg", "method.embedding-dim": 256, "method.head-width": 256}

TABLE = replace(
    backgrounds.TABLE,
    name="vicreg",
    about="VICReg with exchanged backgrounds; the pictures of table backgrounds.",
    common={
        name: value
        for name, value in backgrounds.TABLE.common.items()
        if not name.startswith("method.")
    }
    | HEAD,
    arms={
        "none": {},
        "none, lr 0.01": {"optim.lr": 0.01},
        "none, lr 0.1": {"optim.lr": 0.1},
        "exchange": EXCHANGE,
    },
    data_of="backgrounds",
)
