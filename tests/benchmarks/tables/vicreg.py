"""A method without negatives, VICReg, with exchanged backgrounds, as in table `backgrounds`."""

from dataclasses import replace

from tests.benchmarks.ablation_table import Options
from tests.benchmarks.tables.backgrounds import LARGER, MORE_EXCHANGE

HEAD: Options = {"method": "vicreg", "method.embedding-dim": 256, "method.head-width": 256}

TABLE = replace(
    LARGER,
    name="vicreg",
    about="VICReg with exchanged backgrounds; the pictures of table backgrounds.",
    common={name: value for name, value in LARGER.common.items() if not name.startswith("method.")}
    | HEAD,
    arms={
        "none": {},
        "none, lr 0.01": {"optim.lr": 0.01},
        "none, lr 0.1": {"optim.lr": 0.1},
        "exchange": MORE_EXCHANGE,
    },
)
