"""Made pictures whose kinds have typical backgrounds (the demo's generator), 32 px."""

import re
from dataclasses import replace
from pathlib import Path

from pipeline.demo.objects import SHARE_OF_PICTURE
from pipeline.demo.pictures import make_demo_pictures
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from tests.benchmarks.ablation_table import Data, Options, Table

NETWORK: Options = {"encoder.architecture": "timm:test_resnet", "encoder.stem": "standard"}
NUM_TRAIN, BATCH, STEPS = 3200, 64, 2000


def prepare(
    folder: Path,
    seed: int,
    source: str = "boundary",
    object_share: tuple[float, float] = SHARE_OF_PICTURE,
) -> Data:
    """Pictures and shards of a seed; other seeds have wholly other pictures.

    `external` saliency is the true masks.
    """
    made, shards = folder / f"pictures-{seed}", shards_of(folder / f"shards-{seed}", source)
    make_demo_pictures(made, num_train=NUM_TRAIN, seed=seed, object_share=object_share)
    masks = made / "masks" / "train" if source == "external" else ""
    data = made / "pictures" / "train"
    run_precompute(PrecomputeConfig(data=data, out=shards, saliency=source, masks=masks))
    names = ("usual", "changed")
    return Data(shards=shards, tests={name: made / "pictures" / name for name in names})


def shards_of(folder: Path, source: str) -> Path:
    """Where the shards with a source of saliency lie, beside those with `boundary`."""
    end = "" if source == "boundary" else re.sub(r"[^a-z0-9]+", "-", f" {source}")
    return folder.with_name(f"{folder.name}{end}")


CALIBRATED: Options = {
    "masks.foreground": "otsu",
    "masks.count": "matched",
    "masks.negative-ratio": (0.7, 1.0),
}
PAPER: Options = {
    "masks.foreground": "std",
    "masks.count": "paper",
    "masks.negative-ratio": (0.4, 0.7),
}
OWN: Options = {"method.hard-negatives": 1, "method.rho": 2.0}
HARD: Options = {"method.hard-negatives": 1, "method.object-rho": 3.0}
EXCHANGE: Options = {"method.object-exchange-probability": 0.6}
MATCHED: Options = {"method.hard-kind": "matched"}
BOTH_KINDS: Options = {"method.hard-kind": "both"}
LOCAL: Options = {
    "views.crop-scale": (0.3, 1.0),
    "views.local": 4,
    "views.local-size": 16,
    "views.local-tries": 4,
}
"""As in recipe small_local, for views of 32 px: as many pixels more as one view has."""
RANDOM: Options = {"masks.negative-patches": "random"}

COMMON_EXCHANGE: Options = {
    "masks.strategy": "exchange",
    "masks.exchange": "swap",
    "masks.probability": 0.3,
}
OBJECT_BOTH: Options = {"method.object-head": "both", **HARD, **EXCHANGE}
LARGER_CROPS: Options = {"views.crop-scale": (0.6, 1.0)}
"""The best of the scales that were tried for the baseline (RESULTS.md)."""


def cropped(arms: dict[str, Options]) -> dict[str, Options]:
    """Arms with larger crops, and with crops that show a share of the foreground."""
    crops: dict[str, Options] = {
        **{f"crops from {low}": {"views.crop-scale": (low, 1.0)} for low in (0.4, 0.6, 0.8)},
        **{f"show {share}": {"views.object-share": share} for share in (0.3, 0.6, 0.9)},
        **{
            f"crops from {low}, show {share}": {
                "views.crop-scale": (low, 1.0),
                "views.object-share": share,
            }
            for low, share in ((0.4, 0.6), (0.6, 0.9))
        },
    }
    return {
        f"{arm}, {name}": {**options, **crop}
        for arm, options in arms.items()
        for name, crop in crops.items()
    }


TABLE = Table(
    name="backgrounds",
    about="Nine of ten training objects stand on a background typical of their kind.",
    baseline="none",
    common={
        "recipe": "simclr_small",
        **NETWORK,
        "views.size": 32,
        "views.grid": 4,
        "batch-size": BATCH,
        "epochs": STEPS * BATCH // NUM_TRAIN,
        "optim.lr": 0.03,
        "method.temperature": 0.2,
        "method.hard-negatives": 0,
        "method.object-head": "off",
        "masks.strategy": "none",
        **CALIBRATED,
    },
    arms={
        "none": {},
        # As many pixels through the encoder as "object both": its cost, in plain steps.
        "none, equal cost": {"epochs": round(2.5 * STEPS * BATCH / NUM_TRAIN)},
        # As many FLOPs: of the five passes of "object both", two have no gradient, a third each.
        "none, equal FLOPs": {"epochs": round((3 + 2 / 3) / 2 * STEPS * BATCH / NUM_TRAIN)},
        # Two and a half times as long: does the difference last, at equal steps and at equal cost?
        "object both, 5000 steps": {
            "method.object-head": "both",
            **HARD,
            **EXCHANGE,
            "epochs": round(2.5 * STEPS * BATCH / NUM_TRAIN),
        },
        "none, 12500 steps": {"epochs": round(6.25 * STEPS * BATCH / NUM_TRAIN)},
        "random": {"masks.strategy": "random"},
        "balanced": {"masks.strategy": "balanced"},
        "own, paper": {**OWN, **PAPER},
        "own": OWN,
        "exchange": COMMON_EXCHANGE,
        "object hard": {"method.object-head": "hard", **HARD},
        "object exchange": {"method.object-head": "exchange", **EXCHANGE},
        "object both": OBJECT_BOTH,
        # Two heads and a further view, whose background is never exchanged.
        "object neither": {
            "method.object-head": "exchange",
            "method.object-exchange-probability": 0.0,
        },
        "shuffled, own": {"masks.strategy": "shuffled", **OWN},
        # As many patches hidden in the negative, drawn from all of them.
        "object hard, equal area": {"method.object-head": "hard", **HARD, **RANDOM},
        "object both, equal area": {"method.object-head": "both", **HARD, **EXCHANGE, **RANDOM},
        # Local crops: three views' pixels an image instead of two.
        "local": LOCAL,
        "local, anywhere": {**LOCAL, "views.local-tries": 1},
        "local, weight 0.3": {**LOCAL, "method.local-weight": 0.3},
        "local, crops from 0.2": {**LOCAL, "views.crop-scale": (0.2, 1.0)},
        "none, cost of local": {"epochs": round(1.5 * STEPS * BATCH / NUM_TRAIN)},
        # Recipe small_local whole: six views' pixels instead of five.
        "object both, local": {"method.object-head": "both", **HARD, **EXCHANGE, **LOCAL},
        "object both, cost of local": {
            "method.object-head": "both",
            **HARD,
            **EXCHANGE,
            "epochs": round(1.2 * STEPS * BATCH / NUM_TRAIN),
        },
        # Another image's object on the anchor's background; both kinds cost as much as two own.
        "object hard, matched": {"method.object-head": "hard", **HARD, **MATCHED},
        "object hard, matched, rho 2": {
            "method.object-head": "hard",
            **HARD,
            **MATCHED,
            "method.object-rho": 2.0,
        },
        "object hard, both kinds": {"method.object-head": "hard", **HARD, **BOTH_KINDS},
        "object hard, two own": {"method.object-head": "hard", **HARD, "method.hard-negatives": 2},
        **cropped({"none": {}, "exchange": COMMON_EXCHANGE, "object both": OBJECT_BOTH}),
        **{
            f"exchange, {name}, crops from 0.6": {**COMMON_EXCHANGE, **LARGER_CROPS, **options}
            for name, options in {
                "probability 0.6": {"masks.probability": 0.6},
                "probability 0.9": {"masks.probability": 0.9},
                "probability 0.6, show 0.9": {"masks.probability": 0.6, "views.object-share": 0.9},
            }.items()
        },
        # Masks of the query where crops hide less.
        "random, crops from 0.6": {"masks.strategy": "random", **LARGER_CROPS},
        "balanced, crops from 0.6": {"masks.strategy": "balanced", **LARGER_CROPS},
    },
    prepare=prepare,
)

MORE_EXCHANGE: Options = {**COMMON_EXCHANGE, "masks.probability": 0.6}
"""The best share of exchanged queries with larger crops."""
LARGER = replace(TABLE, common=TABLE.common | LARGER_CROPS, data_of=TABLE.name)
"""What the other tables of these pictures share."""
