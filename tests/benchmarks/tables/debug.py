"""Two arms of seconds, to see that everything fits together."""

from pathlib import Path

from pipeline.demo.pictures import make_demo_pictures
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from tests.benchmarks.ablation_table import Data, Table


def prepare(folder: Path, seed: int) -> Data:
    pictures, shards = folder / f"pictures-{seed}", folder / f"shards-{seed}"
    make_demo_pictures(pictures, num_train=32, num_usual=16, num_changed=16, seed=seed)
    run_precompute(PrecomputeConfig(data=pictures / "pictures" / "train", out=shards))
    names = ("usual", "changed")
    return Data(shards=shards, tests={name: pictures / "pictures" / name for name in names})


TABLE = Table(
    name="debug",
    about="Tiny runs that show nothing.",
    baseline="none",
    common={
        "recipe": "debug",
        # Small: a run of seconds would spend most of them on writing a larger network.
        "encoder.architecture": "mobilenet_v3_small",
        "encoder.stem": "standard",
        "checkpoint.every-steps": 1,
    },
    arms={
        "none": {"method.hard-negatives": 0, "method.object-head": "off"},
        "object both": {},
    },
    prepare=prepare,
)
