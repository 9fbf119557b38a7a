from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.progress import listening
from tests.listeners import Kept
from tests.training.evaluate.cases import write_evaluation
from training.evaluate.compare import Comparison, compare, markdown, read_arms, shared_figures
from training.evaluate.intervals import paired_difference, seeds_difference

SIX: NDArray[np.bool_] = (
    np.random.default_rng(0).random((6, 300)) < np.array([[0.5] * 3 + [0.7] * 3]).T
)
"""Right predictions of six evaluations, the later three better."""
RIGHT = np.arange(9) % 2 == 0


def shared(root: Path, *words: str, protocols: tuple[str, ...] = ()) -> list[str]:
    return shared_figures(read_arms(words, (), root), protocols)


def compared(root: Path, *words: str) -> list[Comparison]:
    return compare(read_arms(words, (), root), shared(root, *words), seed=0)


def test_folders_seeds_and_checkpoints_by_name(tmp_path: Path) -> None:
    for name in ("a0", "a1", "b0", "b1", "lr=0.1"):
        write_evaluation(tmp_path / name, RIGHT, checkpoint="/runs/b")
    assert [arm.name for arm in read_arms(("a0", "lr=0.1"), (), tmp_path)] == ["a0", "lr=0.1"]
    none, own = read_arms(("none=a0,a1", "own=b0,b1"), (), tmp_path)
    assert (none.name, own.name, len(none.seeds)) == ("none", "own", 2)
    assert none.right("knn").shape == (2, 1, 9)

    both = write_evaluation(tmp_path / "both", RIGHT, checkpoint="/runs/a")
    write_evaluation(both, ~RIGHT, checkpoint="untrained", checkpoint_digest="random:0")
    assert [arm.name for arm in read_arms(("both",), (), tmp_path)] == ["/runs/a", "untrained"]
    for chosen in ("/runs/a", "a"):
        first, _ = read_arms(("both", "a0"), (chosen, "runs/b"), tmp_path)
        assert first.right("knn")[0, 0].sum() == RIGHT.sum()
    with pytest.raises(InputError, match=r"several checkpoints: choose .*\(/runs/a, untrained\)"):
        read_arms(("both", "a0"), (), tmp_path)
    with pytest.raises(InputError, match=r"no checkpoint momentum: choose from /runs/a, untrained"):
        read_arms(("both",), ("momentum",), tmp_path)
    write_evaluation(both, RIGHT, checkpoint="untrained", checkpoint_digest="random:1")
    names = [arm.name for arm in read_arms(("both",), (), tmp_path)]
    assert sorted(names) == ["/runs/a", "untrained random:0", "untrained random:1"]
    write_evaluation(both, RIGHT, checkpoint="/runs/a", val="flowers", val_digest="ff")
    with pytest.raises(InputError, match=r"knn on flowers(/val)? and on flowers"):
        read_arms(("both", "a0"), ("a", "b"), tmp_path)
    assert len(read_arms(("both", "a0"), ("untrained random:0", "b"), tmp_path)) == 2


def test_figures_in_common(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_evaluation(tmp_path / name, RIGHT)
        write_evaluation(tmp_path / name, RIGHT, protocol="backgrounds", variant="other")
    write_evaluation(tmp_path / "a", RIGHT, protocol="linear")
    assert sorted(shared(tmp_path, "a", "b")) == ["backgrounds other", "knn"]
    assert shared(tmp_path, "a", "b", protocols=("backgrounds",)) == ["backgrounds other"]
    with pytest.raises(InputError, match=r"no arm has protocol 'svm': choose from .*knn"):
        shared(tmp_path, "a", "b", protocols=("svm",))
    with pytest.raises(InputError, match=r"no figure of linear in common: a: .*; b: "):
        shared(tmp_path, "a", "b", protocols=("linear",))


def test_words_that_name_no_arms(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_evaluation(tmp_path / name, RIGHT)
    for words, message in (
        (("a", f"x=b,../{tmp_path.name}/a"), "a is given twice"),
        (("a",), "got runs/a: name two folders of evaluations"),
        (("x=a", "x=b"), "got x, x: name two folders .*of different names"),
        (("x=a,b", "y=c"), r"other numbers of seeds \(x 2, y 1\)"),
        (("x=a,", "y=c"), "wanted a folder, or NAME=FOLDER"),
        (("a", "nowhere"), "no evaluation at .*nowhere"),
    ):
        with pytest.raises(InputError, match=message):
            read_arms(words, (), tmp_path)


def test_evaluations_that_do_not_match(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", RIGHT, settings={"k": 20, "strength": 1.0})
    write_evaluation(tmp_path / "more", np.append(RIGHT, True))
    write_evaluation(tmp_path / "other", RIGHT, prefix="x")
    write_evaluation(tmp_path / "labels", RIGHT, first_label=1)
    write_evaluation(tmp_path / "twice", np.stack([RIGHT] * 2))
    for name, message in (
        ("more", r"a and more: knn .* 1 are in one .* \(9\.jpg\)"),
        ("other", r"18 are in one of them only \(\w+.jpg, \w+\.jpg, \w+\.jpg\)"),
        ("labels", r"a and labels: knn has other labels for 9 images \(\d\.jpg, "),
        ("twice", r"1 and 2 draws of labels: .*--finetune\.draws"),
    ):
        with pytest.raises(InputError, match=message):
            shared(tmp_path, "a", name)
    (tmp_path / "foreign").mkdir()
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "foreign" / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet holds no .*its columns are a, b$"):
        shared(tmp_path, "a", "foreign")
    write_evaluation(tmp_path / "b", RIGHT, settings={"k": 5, "strength": 0.1})
    kept = Kept()
    with listening(kept):
        assert shared(tmp_path, "a", "b") == ["knn"]
    assert kept.lines == ["warning: a and b: knn was evaluated with other k"]


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
    for number, row in enumerate(SIX):
        write_evaluation(tmp_path / str(number), row)
    for name, first in (("a", 0), ("b", 3), ("a1", 1), ("b1", 2)):
        write_evaluation(tmp_path / name, SIX[first : first + 3])
    means = [np.stack([SIX[i : i + 3].mean(axis=0) for i in pair]) for pair in ((0, 1), (3, 2))]
    for words, num_seeds, expected in (
        (("0", "3"), 1, paired_difference(SIX[0], SIX[3], seed=0)),
        (("none=0,1,2", "own=3,4,5"), 3, seeds_difference(SIX[:3], SIX[3:])),
        (("a", "b"), 1, seeds_difference(SIX[:3], SIX[3:])),
        (("none=a,a1", "own=b,b1"), 2, seeds_difference(*means)),
    ):
        (found,) = compared(tmp_path, *words)
        assert found.num_seeds == num_seeds
        # The images come in the order of their digests, and so do the sums.
        told = (found.difference.points, found.difference.low, found.difference.p)
        assert told == pytest.approx((expected.points, expected.low, expected.p))


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, row in zip("abc", SIX[[0, 3, 1]], strict=True):
        write_evaluation(tmp_path / name, row)
    of_b, of_c = compared(tmp_path, "a", "b", "c")
    lines = list(markdown([of_b, of_c]))
    b, c = of_b.difference, of_c.difference
    assert lines[:3] == [
        "| top-1, % | a | b | c | b - a | c - a |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        f"| knn | {of_b.top1_baseline:.2f} | {of_b.top1:.2f} | {of_c.top1:.2f} "
        f"| {b.points:+.2f} ({b.low:+.2f} to {b.high:+.2f}), p < 0.0001 "
        f"| {c.points:+.2f} ({c.low:+.2f} to {c.high:+.2f}), p = {c.p:.2g} |",
    ]
    assert "McNemar" in lines[4]
    assert "300 images" in lines[4]
    assert lines[6] == "| b - a by class | images | knn |"
    assert lines[8] == f"| cat | 100 | {of_b.gains['cat'][0]:+.1f} |"
    assert lines[12] == "| c - a by class | images | knn |"
    assert len(lines) == 17
    monkeypatch.setattr("training.evaluate.compare.MOST_CLASSES", 2)
    gains = {name: points for name, (points, _) in of_b.gains.items()}
    shown = [line.split(" | ")[0] for line in list(markdown([of_b, of_c]))[8:10]]
    falling = sorted(gains, key=gains.__getitem__, reverse=True)
    assert shown == [f"| {falling[0]}", f"| {falling[-1]}"]
