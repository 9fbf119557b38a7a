"""The settings of an explainer. They import no torch."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import check
from pipeline.storage.storage import Location
from training.config.settings import check_least

UNTRAINED = "untrained"  # as of evaluations, whose module imports torch
PLACES = ("checkpoint", "shards", "out", "second", "checkpoint_steps")
"""Fields for which digests stand, or that decide nothing."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """Train a network that marks what a frozen backbone recognises images by.

    The same command goes on from the newest checkpoint.

    Attributes:
        checkpoint: a run, a checkpoint or an exported backbone; it stays as it is.
        shards: images to learn from, labelled or not.
        out: folder of the explainer, for --saliency explain:weights=FOLDER.
        second: another run or export that looks at the masks at the end: do they show it, too, what
            an image is? untrained: the same network with random weights.
        prototypes: labels that are made of the features, 2 or more; 50 to 200 for thousands of
            images.
        temperature: of the prototypes' probabilities, softmax(cosine / temperature), above 0.
        entropy_weight: of the entropy of what a mask hides, 0 or more.
        variation_weight: of the masks' total variation, 0 or more.
        area_weight: of their mean area, 0 or more.
        area: least and greatest share of a crop that a mask keeps, in (0, 1).
        width: channels of the network's finest level, 4 or more, a multiple of 4.
        steps: of the training, 1 or more.
        batch_size: crops of a step, 2 or more.
        lr: learning rate of Adam, above 0; it falls to 0 along a cosine.
        seed: of first weights, prototypes, order and crops, 0 or more.
        checkpoint_steps: steps between checkpoints, 1 or more.
    """

    checkpoint: Path
    shards: Location
    out: Path
    second: str = UNTRAINED
    prototypes: int = 100
    temperature: float = 0.1
    entropy_weight: float = 1.0
    variation_weight: float = 1.0
    area_weight: float = 1.0
    area: tuple[float, float] = (0.05, 0.5)
    width: int = 16
    steps: int = 2000
    batch_size: int = 32
    lr: float = 3e-3
    seed: int = 0
    checkpoint_steps: int = 200

    def __post_init__(self) -> None:
        check_least(self, prototypes=2, steps=1, batch_size=2, seed=0, checkpoint_steps=1, width=4)
        check_least(self, entropy_weight=0, variation_weight=0, area_weight=0)
        check(self.width % 4 == 0, f"width {self.width} must be a multiple of 4")
        fits = self.temperature > 0 and self.lr > 0
        check(fits, f"temperature {self.temperature} and lr {self.lr} must be above 0")
        least, most = self.area
        check(0 < least < most < 1, f"area {least} to {most}: wanted 0 < least < greatest < 1")

    def to_json(self) -> dict[str, Any]:
        """The other fields, as JSON values."""
        plain = json.loads(json.dumps(asdict(self), default=str))
        return {name: value for name, value in plain.items() if name not in PLACES}
