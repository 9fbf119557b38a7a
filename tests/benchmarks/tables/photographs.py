"""Photographs of ten classes at 48 px; changed: their objects on backgrounds of other classes.

Pretraining and kNN's bank: imagenette160/train but for 800 photographs, held out by the hash of
their files. Seeds below 100 are scored on imagenette_backgrounds, whose objects a model has marked;
seeds from 100 on, for choosing settings, on the 800, whose objects the label-free saliency marks:
their changed backgrounds are approximate.
"""

import hashlib
from pathlib import Path

from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from tests.benchmarks.ablation_table import FIRST_CHOICE_SEED, Data, Options, Table
from tests.benchmarks.changed_backgrounds import change_backgrounds, mark_objects
from tests.benchmarks.photographs import shared_photographs
from tests.benchmarks.tables.backgrounds import (
    CALIBRATED,
    COMMON_EXCHANGE,
    EXCHANGE,
    HARD,
    MATCHED,
    NETWORK,
    OWN,
    cropped,
    shards_of,
)

NUM_HELD_OUT, BATCH, EPOCHS = 800, 64, 80  # 4,000 photographs: 62 steps an epoch, 4,960 in all


def prepare(folder: Path, seed: int, saliency: str = "boundary") -> Data:
    """Links to the photographs, shards, composed pictures: the same for all seeds of a kind."""
    source, folder = shared_photographs(), folder / "photographs"
    train, held_out = folder / "train", folder / "held_out"
    files = sorted((source / "imagenette160" / "train").rglob("*.jpg"))
    files.sort(key=lambda file: hashlib.sha256(file.read_bytes()).digest())
    for number, file in enumerate(files):
        link = (held_out if number < NUM_HELD_OUT else train) / file.parent.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(file.absolute())
    shards = shards_of(folder / "shards", saliency)
    run_precompute(PrecomputeConfig(data=train, out=shards, saliency=saliency))
    if seed >= FIRST_CHOICE_SEED:
        usual, masks, name = held_out, folder / "held_out_masks", "held_out_changed"
        mark_objects(usual, masks)
    else:
        marked = source / "imagenette_backgrounds"
        usual, masks, name = marked / "images", marked / "masks", "changed"
    change_backgrounds(usual, masks, folder / name)
    return Data(shards=shards, tests={"usual": usual, "changed": folder / name})


OBJECT_EXCHANGE: Options = {"method.object-head": "exchange", **EXCHANGE}
FURTHER_VIEW: Options = {
    "method.object-head": "exchange",
    "method.object-exchange-probability": 0.0,
}
MOCO: Options = {
    "recipe": "moco_v2_small",
    "method.hard-negatives": 0,
    "method.object-head": "off",
    "optim.lr": 0.01,
}

BOTH: Options = {"method.object-head": "both", **HARD, **EXCHANGE}
LEVERS: dict[str, Options] = {
    **{
        f"object exchange, probability {share}": {
            **OBJECT_EXCHANGE,
            "method.object-exchange-probability": share,
        }
        for share in (0.3, 0.9)
    },
    **{
        f"object exchange, weight {weight}": {**OBJECT_EXCHANGE, "method.object-weight": weight}
        for weight in (0.3, 0.7)
    },
    **{f"object both, rho {rho}": {**BOTH, "method.object-rho": rho} for rho in (2.0, 5.0)},
    "object both, matched": {**BOTH, **MATCHED},
    "object exchange, second look": OBJECT_EXCHANGE,
    **{
        f"exchange, probability {share}": {**COMMON_EXCHANGE, "masks.probability": share}
        for share in (0.6, 0.9)
    },
    "exchange, second look": COMMON_EXCHANGE,
    # The exchanged patches are 4 px wide instead of 8.
    "exchange, fine": {**COMMON_EXCHANGE, "views.grid": 12},
    "exchange, fine, second look": {**COMMON_EXCHANGE, "views.grid": 12},
}
"""What may move the frontier; tried on seeds from 100 on."""
RESNET18: Options = {
    "encoder.architecture": "resnet18",
    "encoder.stem": "small",
    "views.size": 32,
    "views.grid": 4,
    "epochs": EPOCHS // 2,
    "optim.lr": 0.03,
}
"""The larger network of table `small`, for about as long as the small one trains."""

TABLE = Table(
    name="photographs",
    about="Photographs of ten classes; objects cut by model-made masks on inpainted backgrounds.",
    baseline="none, equal cost",
    common={
        "recipe": "simclr_small",
        **NETWORK,
        "views.size": 48,
        "views.grid": 6,
        "batch-size": BATCH,
        "epochs": EPOCHS,
        "optim.lr": 0.1,
        "method.temperature": 0.2,
        "method.hard-negatives": 0,
        "method.object-head": "off",
        "masks.strategy": "none",
        **CALIBRATED,
    },
    arms={
        "none": {},
        # Tried on the held-out photographs alone, to choose the rate of all arms.
        "none, lr 0.03": {"optim.lr": 0.03},
        "none, lr 0.06": {"optim.lr": 0.06},
        # As many pixels through the encoder as "object both".
        "none, equal cost": {"epochs": round(2.5 * EPOCHS)},
        # As many as "object exchange" and "object neither".
        "none, cost of exchange": {"epochs": round(1.5 * EPOCHS)},
        "own": OWN,
        "exchange": COMMON_EXCHANGE,
        "exchange, cost of object exchange": {**COMMON_EXCHANGE, "epochs": round(1.5 * EPOCHS)},
        "object hard": {"method.object-head": "hard", **HARD},
        "object exchange": OBJECT_EXCHANGE,
        "object both": BOTH,
        # Two heads and a further view, whose background is never exchanged.
        "object neither": FURTHER_VIEW,
        "moco none": MOCO,
        "moco none, equal cost": {**MOCO, "epochs": round(1.5 * EPOCHS)},
        "moco object exchange": {**MOCO, **OBJECT_EXCHANGE},
        "moco object both": {**MOCO, **BOTH},
        **LEVERS,
        **cropped({"none": {}, "exchange": COMMON_EXCHANGE, "object exchange": OBJECT_EXCHANGE}),
        "resnet18 none": RESNET18,
        "resnet18 exchange": {**RESNET18, **COMMON_EXCHANGE},
        "resnet18 none, cost of exchange": {**RESNET18, "epochs": round(0.75 * EPOCHS)},
        "resnet18 object exchange": {**RESNET18, **OBJECT_EXCHANGE},
    },
    prepare=prepare,
    sources=dict.fromkeys(
        (arm for arm in LEVERS if arm.endswith("second look")), "boundary:second_look=true"
    ),
)
