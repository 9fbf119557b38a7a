from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from training.evaluate.channels_config import ChannelsConfig
from training.evaluate.config import (
    BackgroundsConfig,
    DetectionConfig,
    DiagnosticsConfig,
    EvaluateConfig,
    FinetuneConfig,
    PaperProbeConfig,
)
from training.evaluate.uncertainty_settings import UncertaintyConfig

BASE = {"checkpoint": ("run",), "train": Path("train"), "val": Path("val")}
DETECTION = BASE | {"protocol": ("detection",)}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (BackgroundsConfig, {"backgrounds": 0}, r"backgrounds\.backgrounds 0 must be 1 or more"),
        (BackgroundsConfig, {"max_images": 1}, "max_images 1 must be 2 or more"),
        (BackgroundsConfig, {"min_object": 0.9}, r"backgrounds\.min_object 0\.9"),
        (ChannelsConfig, {"budgets": ()}, "wanted some in .0, 1., each once"),
        (ChannelsConfig, {"budgets": (1.0, 1.5)}, "wanted some in .0, 1., each once"),
        (ChannelsConfig, {"budgets": (0.5, 0.5)}, r"channels\.budgets \[0\.5, 0\.5\]"),
        (ChannelsConfig, {"images": 1}, r"channels\.images 1 must be 2 or more"),
        (DiagnosticsConfig, {"ratios": (0.0,)}, "wanted some in"),
        (DiagnosticsConfig, {"ratios": ()}, "wanted some in"),
        (DiagnosticsConfig, {"grid": 0}, "grid 0 must be 1 or more"),
        (DiagnosticsConfig, {"fill": "noise"}, "unknown fill"),
        (FinetuneConfig, {"shares": (0.1, 1.5)}, "in .0, 1."),
        (FinetuneConfig, {"shares": ()}, "in .0, 1."),
        (FinetuneConfig, {"min_steps": 0}, r"finetune\.min_steps 0 must be 1 or more"),
        (FinetuneConfig, {"lr": 0.0}, r"lr 0\.0 must be above 0"),
        (FinetuneConfig, {"weight_decay": -1.0}, r"weight_decay -1\.0 must be 0 or more"),
        (FinetuneConfig, {"batch_size": 30}, "16 does not divide a batch of 30"),
        (PaperProbeConfig, {"epochs": 0}, r"linear_paper\.epochs 0 must be 1 or more"),
        (PaperProbeConfig, {"momentum": 1.0}, r"momentum 1\.0 must be in"),
        (DetectionConfig, {"classes": ("cat", "cat")}, "named twice"),
        (DetectionConfig, {"val_share": 1.0}, r"wanted \[0, 1\)"),
        (DetectionConfig, {"short_sides": ()}, "from 32 pixels"),
        (DetectionConfig, {"short_sides": (2000,)}, "to the long side"),
        (DetectionConfig, {"finest_level": 6}, "wanted 2 to 5"),
        (DetectionConfig, {"steps": 0}, r"detection\.steps 0 must be above 0"),
        (DetectionConfig, {"warmup_steps": 3000}, "fewer than 3000"),
        (UncertaintyConfig, {"views": 0}, r"uncertainty\.views 0 must be 1 or more"),
        (UncertaintyConfig, {"certain": 0.0}, r"uncertainty\.certain 0\.0 must be in"),
        (EvaluateConfig, BASE | {"checkpoint": ()}, "--checkpoint RUN"),
        (EvaluateConfig, BASE | {"protocol": ()}, "--protocol names nothing"),
        (EvaluateConfig, BASE | {"batch_size": 0}, "batch_size 0 must be 1 or more"),
        (EvaluateConfig, BASE | {"num_workers": 0}, "num_workers 0 must be 1 or more"),
        (EvaluateConfig, BASE | {"temperature": 0.0}, r"temperature 0\.0 must be above 0"),
        (EvaluateConfig, BASE | {"results": Path(__file__)}, "is a file: give a folder"),
        (EvaluateConfig, BASE | {"protocol": ("knn", "detection")}, "by itself, with its own"),
        (EvaluateConfig, DETECTION | {"num_workers": 2}, "one process: leave --num-workers 2 out"),
    ],
)
def test_settings_out_of_range(kind: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**settings)


def test_a_grid_divides_the_view_and_detection_is_one_process() -> None:
    assert [DiagnosticsConfig().grid_of(size) for size in (64, 224, 42, 20)] == [8, 8, 7, 4]
    with pytest.raises(InputError, match=r"18 px cannot be cut.*diagnostics\.grid"):
        DiagnosticsConfig().grid_of(18)
    assert EvaluateConfig(**DETECTION).workers == 1  # type: ignore[arg-type]
    assert EvaluateConfig(**BASE, num_workers=3).workers == 3  # type: ignore[arg-type]
