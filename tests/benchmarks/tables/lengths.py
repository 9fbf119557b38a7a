"""Is there a length from which query masks pay? 1, 2, 4 times the steps of table `backgrounds`."""

from dataclasses import replace

from tests.benchmarks.ablation_table import Options
from tests.benchmarks.tables.backgrounds import BATCH, LARGER, NUM_TRAIN, STEPS


def _arms() -> dict[str, Options]:
    arms: dict[str, Options] = {}
    for times in (1, 2, 4):
        length: Options = {"epochs": times * STEPS * BATCH // NUM_TRAIN}
        arms[f"none, {times}x"] = length
        for strategy in ("random", "balanced"):
            for share in (0.25, 0.5, 1.0):
                masked: Options = {"masks.strategy": strategy, "masks.probability": share}
                arms[f"{strategy}, {share:g} of the views, {times}x"] = {**length, **masked}
    return arms


TABLE = replace(
    LARGER,
    name="lengths",
    about="Query masks in short and long runs; the pictures of table backgrounds.",
    baseline="none, 1x",
    arms=_arms(),
)
