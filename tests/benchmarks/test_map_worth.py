"""What maps are worth: the fitted line, and gains from records alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from tests.benchmarks.ablation_records import packed
from tests.benchmarks.map_worth import draw, gains, line_through


def test_the_line_is_that_of_least_squares() -> None:
    exact = {"a": (0.0, 1.0), "b": (0.5, 3.0), "c": (1.0, 5.0)}
    assert line_through(exact) == pytest.approx((4.0, 0.0, 5.0), abs=1e-9)
    # Errors (-1, 2, -1) / 6 around a flat line: s^2 = 1 / 6, half width t(1) s / sqrt(1 / 2).
    slope, half, best = line_through({"a": (0.0, 0.0), "b": (0.5, 0.5), "c": (1.0, 0.0)})
    assert (slope, best) == pytest.approx((0, 1 / 6), abs=1e-9)
    assert half == pytest.approx(12.706 * (1 / 6 / 0.5) ** 0.5, rel=1e-3)


def test_gains_are_paired_by_seed(tmp_path: Path) -> None:
    def record(arm: str, seed: int, num_right: int) -> dict[str, object]:
        right = np.arange(100) < num_right
        return {
            "arm": arm,
            "seed": seed,
            "options": {},
            "num_images": {"changed": 100},
            "right": {"changed": {"knn": packed(right)}},
        }

    records = [record("none", 0, 40), record("none", 1, 44), record("centre", 0, 50)]
    records += [record("centre", 1, 54), record("boundary", 1, 64)]
    found = gains(records, "none")
    assert found["centre"] == pytest.approx((10, 10, 10))  # both seeds differ by as much
    assert found["boundary"][0] == pytest.approx(20)
    with pytest.raises(InputError, match="no run of 'own' is recorded"):
        gains(records, "own")
    draw({"centre": 0.4, "boundary": 0.8}, found, tmp_path / "plot.png")
    assert np.asarray(Image.open(tmp_path / "plot.png")).std() > 0
