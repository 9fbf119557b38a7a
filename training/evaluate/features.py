"""Features of a frozen backbone: the test-time view of an image, and batches through the network.

Shapes: B batch, C channels, H W pixels, S side of the view, M images, D features.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.core.errors import InputError
from pipeline.images.preprocessing import centre_view, short_side

CPU_ROWS = 32
"""Images that go through a network at once on a CPU. The activations of more leave its caches:
a five-layer ConvNet of width 48 took 1.4 ms an image of 48 px in 32s, and 2.1 ms in 256s."""


def evaluation_view(
    image: NDArray[np.uint8], view_size: int, resize: int | None = None
) -> NDArray[np.uint8]:
    """The test-time view (`centre_view`) of a decoded image.

    Args:
        image: uint8 RGB [H, W, 3].
        view_size: S.
        resize: length of the shorter side before the cut; none: 256/224 of the view.

    Returns:
        uint8 RGB [S, S, 3], contiguous.
    """
    image_CHW = torch.from_numpy(image).permute(2, 0, 1)
    view_CSS = centre_view(image_CHW, resize or short_side(view_size), view_size)
    return np.ascontiguousarray(view_CSS.permute(1, 2, 0).numpy())


def extract_features(
    backbone: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    device: torch.device,
    prepare: Callable[[torch.Tensor], torch.Tensor],
    autocast_dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the batches through the backbone in evaluation mode, without gradient.

    Weights, statistics and the mode of every module are afterwards what they were.

    Args:
        backbone: [B, 3, S, S] -> [B, D], on `device`.
        batches: of views (uint8 [B, 3, S, S]) and labels (int64 [B]).
        device: where the network runs.
        prepare: views in [0, 1] -> what the backbone wants (normalised, filtered).
        autocast_dtype: compute in this type, bfloat16 say; none: in the weights' own.

    Returns:
        Features float32 [M, D] as they come (not normalised) and labels int64 [M], on the CPU.

    Raises:
        InputError: no batch at all, or features that are not finite.
    """
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    features: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    try:
        with torch.inference_mode():
            for views_BCHW, labels_B in batches:
                image01_BCHW = views_BCHW.to(device, non_blocking=True).float().div_(255)
                # The views only: other strides for the weights of a network that is still being
                # trained would change its next step in the last bits.
                x_BCHW = prepare(image01_BCHW).contiguous(memory_format=torch.channels_last)
                # Behind the preparation: a filter in bfloat16 would lose what it is to keep.
                with torch.autocast(
                    device.type, autocast_dtype, enabled=autocast_dtype is not None
                ):
                    rows = CPU_ROWS if device.type == "cpu" else len(x_BCHW)
                    features += [backbone(x).float().cpu() for x in x_BCHW.split(rows)]
                labels.append(labels_B)
    finally:
        for module, mode in modes:
            module.training = mode
    if not features:
        raise InputError("there are no images to take features of")
    # Outside of inference mode, so that what comes out may take part in a gradient (the probe).
    features_MD = torch.cat(features)
    if not bool(torch.isfinite(features_MD).all()):
        raise InputError("the features are not finite: the weights have diverged or are damaged")
    return features_MD, torch.cat(labels)
