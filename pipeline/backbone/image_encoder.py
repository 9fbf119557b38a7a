"""A backbone behind its preprocessing: images as they come in, features out."""

from pathlib import Path

from torch import Tensor, nn

from pipeline.backbone.folder import load_backbone
from pipeline.images.preprocessing import Preprocess, Preprocessing


class ImageEncoder(nn.Module):
    """Resize, centre crop, normalise, filter, encode.

    Args:
        network: [B, 3, S, S] -> [B, D].
        preprocessing: what it wants to see.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocess = Preprocess(preprocessing)
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Features of images of any size.

        Args:
            image: uint8 RGB, [B, 3, H, W] or [3, H, W].

        Returns:
            float32 [B, D]; [1, D] for one image.

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
