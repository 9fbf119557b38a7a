"""The description of an exported backbone."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.images.pixel_format import PLAIN, Normalisation, PixelFormat
from pipeline.images.preprocessing import Preprocessing

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """The content of `backbone.json`."""

    architecture: str
    """Torchvision's name of the network, or `timm:` and timm's."""
    feature_dim: int
    preprocessing: Preprocessing
    """How an image is prepared."""
    pixels: PixelFormat = PLAIN
    """Channels of an image, and the range that was made 8 bits of in what it was trained on."""
    max_pool: bool = True
    """Whether the maximum pooling behind the stem is in place."""
    channels: dict[str, int] = field(default_factory=dict)
    """Inner channels that are left, by the layer that makes them (`channels.narrow`); layers that
    are not named have as many as in the library's network."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from (run, epoch, versions); JSON values only."""
    weights_sha256: str = ""
    """`weights_digest` of the state dict. Exports of earlier versions have the sha256 of the file
    `backbone.pth` here; `load_backbone` accepts it and replaces it."""
    format_version: int = FORMAT_VERSION

    @property
    def normalisation(self) -> Normalisation:
        """Of the preprocessing."""
        return Normalisation(self.preprocessing.mean, self.preprocessing.std)
