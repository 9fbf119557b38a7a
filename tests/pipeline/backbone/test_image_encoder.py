from pathlib import Path

import pytest
import torch

from pipeline.backbone.image_encoder import load_image_encoder
from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocess
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig


def test_images_in_features_out(tmp_path: Path) -> None:
    config = EncoderConfig(architecture="resnet18")
    info = export_backbone(
        tmp_path / "run" / "backbone",
        build_backbone(config),
        config,
        view_size=32,
        high_pass=(3, 0.7),
        provenance={},
    )
    encoder = load_image_encoder(tmp_path / "run")  # the run's folder will do
    images = torch.randint(256, (2, 3, 50, 70), dtype=torch.uint8)
    with torch.no_grad():
        whole = encoder(images)
        assert whole.shape == (2, 512)
        torch.testing.assert_close(encoder(images[0]), whole[:1])
        assert torch.equal(encoder.network(Preprocess(info.preprocessing)(images)), whole)
    assert not encoder.training
    with pytest.raises(InputError, match=r"wanted torch.uint8"):
        encoder(images.float())
