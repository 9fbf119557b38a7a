"""Settings of SimCLR."""

from dataclasses import dataclass
from typing import ClassVar

from training.methods.settings import HardNegativeConfig


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(HardNegativeConfig):
    """The method's settings.

    Attributes:
        negative_gradient: let gradients flow through the hard negatives too: they are then pushed
            away from the anchors, not only the anchors from them. Off by default, as in MoCo, whose
            negatives come from the momentum encoder.
    """

    name: ClassVar[str] = "simclr"

    negative_gradient: bool = False
