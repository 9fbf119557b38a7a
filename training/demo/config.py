"""Settings of the demo."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo makes. The same command goes on after an interruption.

    Attributes:
        out: folder of the results; pictures, shards and runs go to `seed-N` in it.
        seed: of pictures, weights and draws, 0 or more.
        epochs: of both trainings, 1 or more; none: the recipes' (demo, demo_baseline).
        num_train: pictures to train with, 8 or more, a multiple of 8.
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
        if self.seed < 0 or (self.epochs is not None and self.epochs < 1):
            raise InputError(f"seed {self.seed} must be 0 or more, epochs {self.epochs} 1 or more")
        if any(count < 8 or count % 8 for count in (self.num_train, self.num_test)):
            raise InputError("--num-train and --num-test must be multiples of 8, 8 or more")
