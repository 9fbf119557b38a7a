"""Settings of the demo."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import check
from training.config.settings import check_seed

LEAST_TRAIN = 64
"""The batch of the demo's recipes."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo makes. The same command goes on after an interruption.

    Attributes:
        out: folder of the results; pictures, shards and runs go to `seed-N` in it.
        seed: of pictures, weights and draws, 0 or more.
        epochs: of both trainings, 1 or more; none: the recipes' (demo, demo_baseline).
        num_train: pictures to train with, 64 or more (a batch), a multiple of 8.
        num_test: pictures of each kind of background to score with, 8 or more, a multiple of 8.
        only_pictures: stop after making the pictures.
    """

    out: Path = Path("runs/demo")
    seed: int = 0
    epochs: int | None = None
    num_train: int = 3200
    num_test: int = 2000
    only_pictures: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check(self.epochs is None or self.epochs >= 1, f"epochs {self.epochs} must be 1 or more")
        least = 8 if self.only_pictures else LEAST_TRAIN
        for name, count, low in (("train", self.num_train, least), ("test", self.num_test, 8)):
            check(
                count >= low and count % 8 == 0,
                f"--num-{name} {count} must be a multiple of 8, {low} or more",
            )
