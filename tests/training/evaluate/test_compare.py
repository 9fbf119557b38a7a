from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.evaluate.made_evaluations import write_evaluation
from training.evaluate.arms import read_arms, shared_figures
from training.evaluate.compare import Comparison, compare, markdown
from training.evaluate.intervals import paired_difference, seeds_difference

RIGHT: NDArray[np.bool_] = (
    np.random.default_rng(0).random((6, 300)) < np.array([[0.5] * 3 + [0.7] * 3]).T
)
"""Of six evaluations, the later three better."""


def compared(root: Path, *words: str) -> list[Comparison]:
    arms = read_arms(words, (), root)
    return compare(arms, shared_figures(arms, ()), seed=0)


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


def test_seeds_and_draws(tmp_path: Path) -> None:
    for number, row in enumerate(RIGHT):
        write_evaluation(tmp_path / str(number), row)
    for name, first in (("a", 0), ("b", 3), ("a1", 1), ("b1", 2)):
        write_evaluation(tmp_path / name, RIGHT[first : first + 3])
    means = [np.stack([RIGHT[i : i + 3].mean(axis=0) for i in pair]) for pair in ((0, 1), (3, 2))]
    for words, num_seeds, expected in (
        (("0", "3"), 1, paired_difference(RIGHT[0], RIGHT[3], seed=0)),
        (("none=0,1,2", "own=3,4,5"), 3, seeds_difference(RIGHT[:3], RIGHT[3:])),
        (("a", "b"), 1, seeds_difference(RIGHT[:3], RIGHT[3:])),
        (("none=a,a1", "own=b,b1"), 2, seeds_difference(*means)),
    ):
        (found,) = compared(tmp_path, *words)
        assert found.num_seeds == num_seeds
        # The images come in the order of their digests, and so do the sums.
        told = (found.difference.points, found.difference.low, found.difference.p)
        assert told == pytest.approx((expected.points, expected.low, expected.p))


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, row in zip("abc", RIGHT[[0, 3, 1]], strict=True):
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
    monkeypatch.setattr("training.evaluate.compare.MOST_CLASSES", 2)
    gains = {name: points for name, (points, _) in comparisons[0].gains.items()}
    shown = [line.split(" | ")[0] for line in list(markdown(comparisons))[8:10]]
    falling = sorted(gains, key=gains.__getitem__, reverse=True)
    assert shown == [f"| {falling[0]}", f"| {falling[-1]}"]
