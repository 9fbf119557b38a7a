from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from training.evaluate.config import (
    BackgroundsConfig,
    DiagnosticsConfig,
    EvaluateConfig,
    FinetuneConfig,
    PaperProbeConfig,
)

BASE = {"checkpoint": ("run",), "train": Path("train"), "val": Path("val")}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (BackgroundsConfig, {"backgrounds": 0}, r"backgrounds\.backgrounds must be 1 or more"),
        (BackgroundsConfig, {"max_images": 1}, "max_images 2 or more"),
        (BackgroundsConfig, {"min_object": 0.9}, r"backgrounds\.min_object 0\.9"),
        (DiagnosticsConfig, {"ratios": (0.0,)}, "wanted some in"),
        (DiagnosticsConfig, {"ratios": ()}, "wanted some in"),
        (DiagnosticsConfig, {"max_images": 1}, "2 or more"),
        (DiagnosticsConfig, {"fill": "noise"}, "unknown fill"),
        (FinetuneConfig, {"shares": (0.1, 1.5)}, "in .0, 1."),
        (FinetuneConfig, {"shares": ()}, "in .0, 1."),
        (FinetuneConfig, {"min_steps": 0}, "1 or more"),
        (FinetuneConfig, {"draws": 0}, "draws 0.*1 or more"),
        (FinetuneConfig, {"lr": 0.0}, "rates above 0"),
        (FinetuneConfig, {"weight_decay": -1.0}, "weight_decay -1"),
        (FinetuneConfig, {"batch_size": 30}, "16 does not divide the batch of 30"),
        (PaperProbeConfig, {"epochs": 0}, "wanted 1 or more, lr above 0"),
        (PaperProbeConfig, {"lr": 0.0}, "wanted 1 or more, lr above 0"),
        (PaperProbeConfig, {"momentum": 1.0}, "wanted 1 or more, lr above 0"),
        (EvaluateConfig, BASE | {"checkpoint": ()}, "--checkpoint RUN"),
        (EvaluateConfig, BASE | {"protocol": ()}, "--protocol names nothing"),
        (EvaluateConfig, BASE | {"batch_size": 0}, "batch_size and num_workers"),
        (EvaluateConfig, BASE | {"temperature": 0.0}, r"temperature 0\.0 above 0"),
        (EvaluateConfig, BASE | {"results": Path(__file__)}, "is a file: give a folder"),
    ],
)
def test_settings_out_of_range(kind: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**settings)


def test_a_grid_divides_the_view() -> None:
    assert [DiagnosticsConfig().grid_of(size) for size in (64, 224, 42, 20)] == [8, 8, 7, 4]
    with pytest.raises(InputError, match=r"18 px cannot be cut.*diagnostics\.grid"):
        DiagnosticsConfig().grid_of(18)
