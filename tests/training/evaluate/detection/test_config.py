import pytest

from pipeline.core.errors import InputError
from training.evaluate.config import EvaluateConfig
from training.evaluate.detection.config import DetectionConfig


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("head", "yolo", "head 'yolo': wanted one of fpn, c4"),
        ("masks", "maybe", "wanted one of auto, yes, no"),
        ("norm", "group", "wanted one of batch, frozen"),
        ("classes", ("cat", "cat"), "named twice"),
        ("val_share", 1.0, r"wanted \[0, 1\)"),
        ("short_sides", (), "from 32 pixels"),
        ("short_sides", (2000,), "to the long side"),
        ("finest_level", 6, "wanted 2 to 5"),
        ("steps", 0, "steps 0: wanted more than 0"),
        ("lr", 0.0, "lr 0.0: wanted more than 0"),
        ("warmup_steps", 3000, "fewer than the steps"),
        ("weight_decay", -1.0, "none below 0"),
    ],
)
def test_bad_settings(field: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DetectionConfig(**{field: value})  # type: ignore[arg-type]


def test_detection_stands_alone_in_one_process() -> None:
    from pathlib import Path

    def config(**more: object) -> EvaluateConfig:
        paths = {"checkpoint": ("run",), "train": Path("a"), "val": Path("b")}
        return EvaluateConfig(**(paths | more))  # type: ignore[arg-type]

    with pytest.raises(InputError, match="by itself, with its own --train and --val"):
        config(protocol=("knn", "detection"))
    with pytest.raises(InputError, match="one process, --num-workers 2"):
        config(protocol=("detection",), num_workers=2)
    assert config(protocol=("detection",)).workers == 1
    assert config(protocol=("knn",), num_workers=3).workers == 3
