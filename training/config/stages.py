"""Settings of a stage of a stream of sets: images of earlier sets, and an anchor. No torch."""

from dataclasses import dataclass
from typing import Literal

from pipeline.core.errors import check
from pipeline.storage.storage import Location

ANCHORS = ("none", "l2", "mas")


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Images of earlier sets in every batch (Hu et al., arXiv 2104.12081).

    Attributes:
        shards: the earlier sets, other images than those of --shards; none: no replay.
        share: share of every global batch that they fill, in [0, 1); the rest is new images, and
            an epoch is a pass over these.
        keep: share of the images of the earlier sets that are used, in (0, 1]: of every shard as
            much, and a smaller share's images are among a larger one's.
    """

    shards: tuple[Location, ...] = ()
    share: float = 0.2
    keep: float = 0.1

    def __post_init__(self) -> None:
        check(0 <= self.share < 1, f"replay.share {self.share} must be in [0, 1)")
        check(0 < self.keep <= 1, f"replay.keep {self.keep} must be in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class AnchorConfig:
    """A pull of the backbone's weights towards those that a run starts from (--start-from).

    Attributes:
        kind: none; l2: alike on every weight; mas: by how much the features of the earlier images
            depend on a weight (memory aware synapses, arXiv 1711.09601), summed over the stages.
        strength: of the pull, above 0: it adds strength * importance * (weight - its start) squared
            to the loss; with l2 every importance is 1. The default was chosen for mas: a
            greater one keeps more of what is known and learns less that is new.
    """

    kind: Literal["none", "l2", "mas"] = "none"
    strength: float = 0.03

    def __post_init__(self) -> None:
        known = ", ".join(ANCHORS)
        check(self.kind in ANCHORS, f"unknown anchor.kind {self.kind!r}: choose from {known}")
        check(self.strength > 0, f"anchor.strength {self.strength} must be above 0")
