from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.core.progress import listening
from tests.listeners import Kept
from tests.training.evaluate.made_evaluations import write_evaluation
from training.evaluate.arms import Arm, read_arms, shared_figures

RIGHT = np.arange(9) % 2 == 0


def arms_of(root: Path, *words: str, checkpoints: tuple[str, ...] = ()) -> list[Arm]:
    return read_arms(words, checkpoints, root)


def test_folders_and_seeds_by_name(tmp_path: Path) -> None:
    for name in ("a0", "a1", "b0", "b1", "lr=0.1"):
        write_evaluation(tmp_path / name, RIGHT)
    assert [arm.name for arm in arms_of(tmp_path, "a0", "lr=0.1")] == ["a0", "lr=0.1"]
    none, own = arms_of(tmp_path, "none=a0,a1", "own=b0,b1")
    assert (none.name, own.name, len(none.seeds)) == ("none", "own", 2)
    assert none.right("knn").shape == (2, 1, 9)


def test_several_checkpoints(tmp_path: Path) -> None:
    both = write_evaluation(tmp_path / "both", RIGHT, checkpoint="/runs/a")
    write_evaluation(both, ~RIGHT, checkpoint="untrained", checkpoint_digest="random:0")
    write_evaluation(tmp_path / "one", RIGHT, checkpoint="/runs/b")
    assert [arm.name for arm in arms_of(tmp_path, "both")] == ["/runs/a", "untrained"]
    with pytest.raises(InputError, match=r"several checkpoints: choose .*\(/runs/a, untrained\)"):
        arms_of(tmp_path, "both", "one")
    for chosen in ("/runs/a", "a"):
        first, _ = arms_of(tmp_path, "both", "one", checkpoints=(chosen, "runs/b"))
        assert first.right("knn")[0, 0].sum() == RIGHT.sum()
    with pytest.raises(InputError, match=r"no checkpoint momentum: choose from /runs/a, untrained"):
        arms_of(tmp_path, "both", checkpoints=("momentum",))
    write_evaluation(both, RIGHT, checkpoint="untrained", checkpoint_digest="random:1")
    names = [arm.name for arm in arms_of(tmp_path, "both")]
    assert sorted(names) == ["/runs/a", "untrained random:0", "untrained random:1"]


def test_figures_in_common(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_evaluation(tmp_path / name, RIGHT)
        write_evaluation(tmp_path / name, RIGHT, protocol="backgrounds", variant="other")
    write_evaluation(tmp_path / "a", RIGHT, protocol="linear")
    arms = arms_of(tmp_path, "a", "b")
    assert sorted(shared_figures(arms, ())) == ["backgrounds other", "knn"]
    assert shared_figures(arms, ("backgrounds",)) == ["backgrounds other"]
    with pytest.raises(InputError, match=r"no arm has protocol 'svm': choose from .*knn"):
        shared_figures(arms, ("svm",))
    with pytest.raises(InputError, match=r"no figure of linear in common: a: .*; b: "):
        shared_figures(arms, ("linear",))


def test_words_that_name_no_arms(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_evaluation(tmp_path / name, RIGHT)
    for words, message in (
        (("a", "x=b,../{name}/a"), "a is given twice"),
        (("a",), "got runs/a: wanted two arms"),
        (("x=a", "x=b"), "got x, x: wanted two arms or more, of different names"),
        (("x=a,b", "y=c"), r"other numbers of seeds \(x 2, y 1\)"),
        (("x=a,", "y=c"), "wanted a folder, or NAME=FOLDER"),
        (("a", "nowhere"), "no evaluation at .*nowhere"),
    ):
        with pytest.raises(InputError, match=message):
            arms_of(tmp_path, *(word.format(name=tmp_path.name) for word in words))


def test_images_that_do_not_match(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", RIGHT)
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
            shared_figures(arms_of(tmp_path, "a", name), ())
    write_evaluation(tmp_path / "a", RIGHT, val="flowers", val_digest="ff")
    with pytest.raises(InputError, match=r"knn on flowers(/val)? and on flowers"):
        arms_of(tmp_path, "a", "other")


def test_other_settings_are_a_warning(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", RIGHT, settings={"k": 20, "strength": 1.0})
    write_evaluation(tmp_path / "b", RIGHT, settings={"k": 5, "strength": 0.1})
    kept = Kept()
    with listening(kept):
        assert shared_figures(arms_of(tmp_path, "a", "b"), ()) == ["knn"]
    assert kept.lines == ["warning: a and b: knn was evaluated with other k"]
