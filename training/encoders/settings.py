"""Settings of the encoder. They import no torch."""

import importlib
from dataclasses import dataclass
from typing import Literal

from pipeline.core.errors import InputError

STEMS = ("standard", "small", "partial", "small_partial")
USUAL = ("resnet18", "resnet34", "resnet50", "convnext_tiny", "timm:test_resnet")
"""Architectures of recipes and tests: known without asking their libraries, which takes seconds."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which network is trained.

    Attributes:
        architecture: torchvision's name (ResNet, ResNeXt, wide ResNet, ConvNeXt, DenseNet,
            EfficientNet, MobileNetV3, RegNet), or timm:NAME with the extra timm.
        stem: standard: the library's; small: 3 x 3 instead of 7 x 7, stride 2 (ResNets and
            DenseNets); partial: the standard one, renormalised by the pixels that a mask leaves
            visible; small_partial: both.
        max_pool: keep the maximum pooling behind the stem; it can be left out of networks that
            have just one.
        init: weights to start from: torchvision or timm (the default ones), torchvision:NAME or
            timm:NAME (extra timm), which are fetched once; a local state dict as the library names
            it (.pth); the folder of a run or of an exported backbone; none: random.
        compile: run the network through torch.compile (needs a C++ compiler; on a GPU, Triton).
    """

    architecture: str = "resnet50"
    stem: Literal["standard", "small", "partial", "small_partial"] = "standard"
    max_pool: bool = True
    init: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.architecture not in USUAL:
            architectures = importlib.import_module("pipeline.core.architectures")  # imports torch
            architectures.check_architecture(self.architecture)
        if self.stem not in STEMS:
            raise InputError(f"unknown stem {self.stem!r}: wanted one of {', '.join(STEMS)}")
