"""A backbone behind its preprocessing: images of any size in, features out."""

from pathlib import Path

from torch import Tensor, nn

from pipeline.backbone.folder import load_backbone
from pipeline.images.preprocessing import Preprocess, Preprocessing


class ImageEncoder(nn.Module):
    """Resize, centre crop, normalise, filter, encode; the network is [B, C, S, S] -> [B, D]."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocess = Preprocess(preprocessing)
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Features float32 [B, D] of uint8 [B, C, H, W], or [1, D] of one image [C, H, W].

        Raises:
            InputError: another dtype or shape.
        """
        view_BCHW = self.preprocess(image)
        features_BD: Tensor = self.network(view_BCHW if view_BCHW.ndim == 4 else view_BCHW[None])
        return features_BD


def load_image_encoder(path: Path | str) -> ImageEncoder:
    """Load an export with its preprocessing; path and errors as in `load_backbone`."""
    network, info = load_backbone(path)
    return ImageEncoder(network, info.preprocessing).eval()
