from pathlib import Path

import numpy as np
import pytest

from tests.training.evaluate.made_evaluations import write_evaluation
from training.evaluate.arms import read_arms, shared_figures
from training.evaluate.compare import Comparison, compare, markdown
from training.evaluate.comparison import paired_difference, seeds_difference


def compared(root: Path, *words: str) -> list[Comparison]:
    arms = read_arms(words, (), root)
    return compare(arms, shared_figures(arms, ()), seed=0)


@pytest.fixture
def right() -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Of six evaluations, the later three better, [6, 300]."""
    return np.random.default_rng(0).random((6, 300)) < np.array([[0.5] * 3 + [0.7] * 3]).T


def test_two_backbones_by_hand(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", np.array([1, 1, 0, 1, 0, 0], dtype=np.bool_))
    write_evaluation(tmp_path / "b", np.array([1, 1, 1, 0, 1, 1], dtype=np.bool_))
    (found,) = compared(tmp_path, "a", "b")
    assert (found.baseline, found.arm, found.figure) == ("a", "b", "knn")
    assert [found.top1_baseline, found.top1] == pytest.approx([50, 500 / 6])
    assert (found.only_baseline, found.only_arm) == (1, 3)
    assert found.difference.p == pytest.approx(2 * (1 + 4) / 16)  # 1 or fewer of 4 coins, twice
    # Classes by turns: images 0 and 3, 1 and 4, 2 and 5.
    assert found.gains == {"cat": (-50, 2), "dog": (50, 2), "owl": (100, 2)}


def test_images_are_paired_by_their_bytes(
    tmp_path: Path, right: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
) -> None:
    write_evaluation(tmp_path / "a", right[0])
    write_evaluation(tmp_path / "b", right[3])
    (found,) = compared(tmp_path, "a", "b")
    expected = paired_difference(right[0], right[3], seed=0)
    assert (found.difference.points, found.difference.p) == (expected.points, expected.p)
    assert found.difference == expected


def test_seeds_and_draws(
    tmp_path: Path, right: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
) -> None:
    for number, row in enumerate(right):
        write_evaluation(tmp_path / str(number), row)
    (found,) = compared(tmp_path, "none=0,1,2", "own=3,4,5")
    expected = seeds_difference(right[:3], right[3:])
    assert found.num_seeds == 3
    assert found.difference.points == pytest.approx(expected.points)
    assert found.difference.low == pytest.approx(expected.low)
    write_evaluation(tmp_path / "a", right[:3])
    write_evaluation(tmp_path / "b", right[3:])
    (drawn,) = compared(tmp_path, "a", "b")
    assert drawn.difference.high == pytest.approx(expected.high)
    write_evaluation(tmp_path / "a1", right[1:4])
    write_evaluation(tmp_path / "b1", right[2:5])
    (both,) = compared(tmp_path, "none=a,a1", "own=b,b1")
    means = [np.stack([right[i : i + 3].mean(axis=0) for i in pair]) for pair in ((0, 1), (3, 2))]
    assert both.difference.low == pytest.approx(seeds_difference(*means).low)


def test_the_table(tmp_path: Path, right: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> None:
    for name, row in zip("abc", right[[0, 3, 1]], strict=True):
        write_evaluation(tmp_path / name, row)
    comparisons = compared(tmp_path, "a", "b", "c")
    lines = list(markdown(comparisons))
    assert lines[0] == "| top-1, % | a | b | c | b - a | c - a |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    b, c = (one.difference for one in comparisons)
    assert lines[2] == (
        f"| knn | {comparisons[0].top1_baseline:.2f} | {comparisons[0].top1:.2f} "
        f"| {comparisons[1].top1:.2f} "
        f"| {b.points:+.2f} ({b.low:+.2f} to {b.high:+.2f}), p < 0.0001 "
        f"| {c.points:+.2f} ({c.low:+.2f} to {c.high:+.2f}), p = {c.p:.2g} |"
    )
    assert "McNemar" in lines[4]
    assert "300 images" in lines[4]
    assert lines[6] == "| b - a by class | images | knn |"
    assert lines[8] == f"| cat | 100 | {comparisons[0].gains['cat'][0]:+.1f} |"
    assert lines[12] == "| c - a by class | images | knn |"
    assert len(lines) == 17
