"""The backbone as an ONNX graph, with normalisation and high-pass filter inside.

It takes `views`, uint8 RGB [B, 3, S, S] for any B, after resizing and centre crop, and gives
`features`, float32 [B, D]. The file's metadata say how images become views.

Shapes: B batch, S side of the view, D features.
"""

import dataclasses
import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.backbone.info import BackboneInfo
from pipeline.images.filters import gaussian_blur
from pipeline.images.preprocessing import Preprocessing


class ViewEncoder(nn.Module):
    """Views uint8 [B, C, S, S] to features: `Preprocess.prepare` and network, S fixed.

    The blur is the product with the matrix of one axis, which is a constant here: blurring is
    linear, so the blurred unit images are its columns.
    """

    mean: Tensor
    std: Tensor
    blur_SS: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        for name in ("mean", "std"):
            value = torch.tensor(getattr(preprocessing, name)).view(1, -1, 1, 1)
            self.register_buffer(name, value)
        filtered = preprocessing.high_pass
        self.filters = filtered is not None
        if filtered is not None:
            size = preprocessing.view_size
            # Every row of image i is the unit vector of column i: blurred along the rows it stays
            # the same, along the columns it is the matrix's column i.
            units = torch.eye(size)[:, None, None].expand(size, 1, size, size)
            blurred = gaussian_blur(units.contiguous(), filtered.kernel, filtered.sigma)
            self.register_buffer("blur_SS", blurred[:, 0, 0].mT.contiguous())

    def forward(self, views: Tensor) -> Tensor:
        """Features float32 [B, D]."""
        x_BCSS = (views.float() / 255 - self.mean) / self.std
        if self.filters:
            x_BCSS = x_BCSS - self.blur_SS @ x_BCSS @ self.blur_SS.mT
        features_BD: Tensor = self.network(x_BCSS)
        return features_BD


def write_onnx(file: Path, network: nn.Module, info: BackboneInfo) -> None:
    """Trace the network and write the graph, weights inside, as one file."""
    size = info.preprocessing.view_size
    example = torch.zeros(2, info.pixels.channels, size, size, dtype=torch.uint8)
    with warnings.catch_warnings(action="ignore"):  # messages for the exporter's own developers
        program = torch.onnx.export(
            ViewEncoder(network, info.preprocessing).eval(),
            (example,),
            input_names=["views"],
            output_names=["features"],
            dynamic_shapes={"views": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["preprocessing"] = json.dumps(
        dataclasses.asdict(info.preprocessing)
    )
    program.model.metadata_props["weights_sha256"] = info.weights_sha256
    program.save(file, external_data=False)
