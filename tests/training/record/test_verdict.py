"""Whether a run has learned, in one line."""

import pytest

from training.evaluate.label_free import IMAGES, INSTANCE_ACCURACY, OBJECT_SENSITIVITY, SPREAD
from training.record.verdict import Learning


def figures(accuracy: float, spread: float, images: int = 128) -> dict[str, float]:
    return {IMAGES: images, INSTANCE_ACCURACY: accuracy, SPREAD: spread}


@pytest.mark.parametrize(
    ("start", "end", "line"),
    [
        (
            figures(4, 0.21) | {OBJECT_SENSITIVITY: 0.02},
            figures(61, 0.93) | {OBJECT_SENSITIVITY: 0.15},
            "yes: instance accuracy 4 -> 61 %, spread 0.21 -> 0.93, "
            "object sensitivity 0.020 -> 0.150",
        ),
        (
            figures(30, 0.5),
            figures(40, 0.6),  # two standard errors are 12 points
            "unclear: instance accuracy 30 -> 40 %, spread 0.50 -> 0.60",
        ),
        (figures(30, 0.5), figures(43, 0.6), "yes: instance accuracy 30 -> 43 %, "),
        (figures(30, 0.5, 20), figures(43, 0.6, 20), "unclear: "),
        (figures(60, 0.5), figures(40, 0.6), "no: instance accuracy 60 -> 40 %"),
        (figures(4, 0.5), figures(61, 0.05), "no, the embeddings have collapsed: instance acc"),
    ],
)
def test_the_line(start: dict[str, float], end: dict[str, float], line: str) -> None:
    learning = Learning(min_spread=0.1)
    learning.take(0, start)
    resumed = Learning(min_spread=0.1)
    resumed.load_state_dict(learning.state_dict())
    resumed.take(100, end)
    assert str(resumed.verdict()).startswith(line)


def test_a_checkpoint_of_an_earlier_version_has_no_verdict() -> None:
    learning = Learning(min_spread=0.1)
    assert learning.verdict() is None
    learning.load_state_dict({})
    learning.take(100, figures(61, 0.9))
    assert learning.verdict() is None
