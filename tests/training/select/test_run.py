"""A selection from pool and encoders: what it finds, what goes on, what is refused."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from tests.shard_sets import write_images
from tests.training.evaluate.cases import NAMES, exported, pictures
from training.data.selection import SELECTION_FILE, read_selection
from training.select import run
from training.select.config import ChooseConfig
from training.select.run import choose
from training.select.scorer import Scorer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of three kinds in three shards, a target of one kind, an encoder."""
    folder = tmp_path_factory.mktemp("select")
    exported(folder / "export")
    write_images(folder / "pool", *pictures(42, 0, contrast=55), NAMES)
    images, labels = pictures(36, 1, contrast=55)
    write_images(folder / "target", [i for i, k in zip(images, labels, strict=True) if k == 1], [])
    return folder


def config_of(folder: Path, out: Path, **changes: Any) -> ChooseConfig:  # noqa: ANN401
    given: dict[str, Any] = {"pool": folder / "pool", "target": folder / "target", "out": out}
    if changes.get("score") != "random":
        given["checkpoint"] = folder / "export"
    return ChooseConfig(**(given | {"clusters": 4} | changes))


def scores_of(config: ChooseConfig) -> list[float]:
    files = Scorer(config).files
    return [score for file in files for score in pq.read_table(file)["score"].to_pylist()]


def test_like_images_are_found_and_a_broken_off_choice_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(folder, tmp_path / "one", budget=1 / 3)
    first = choose(config)
    assert len(first.numbers) == 14
    assert (first.numbers % 3 == 1).mean() > 0.6, "a third by chance"
    table = pq.read_table(tmp_path / "one" / SELECTION_FILE)
    assert table.column_names == ["key", "number", "score", "cluster"]
    assert set(table["cluster"].to_pylist()) <= set(range(4))
    assert min(table["score"].to_pylist()) == sorted(scores_of(config))[-14]
    # Killed after the first shard: that one is not scored again, and the rest is as it was.
    files = Scorer(config).files
    before = [file.read_bytes() for file in files]
    for file in files[1:]:
        file.unlink()
    asked: list[Sequence[int]] = []

    def noted(make: Callable[[], Callable[[int], None]], numbers: Sequence[int]) -> Iterable[None]:
        asked.append(numbers)
        return map(make(), numbers)

    again = choose(config, noted)
    assert asked == [[1, 2]]
    assert [file.read_bytes() for file in files] == before
    assert again.digest == first.digest
    # Another budget scores nothing; another seed of the clusters scores anew.
    monkeypatch.setattr(run, "scoring", None)
    smaller = choose(config_of(folder, tmp_path / "one", budget=0.1, diversity="sqrt"))
    assert len(smaller.numbers) == 4
    assert smaller.digest == read_selection(tmp_path / "one").digest != first.digest
    assert Scorer(config_of(folder, tmp_path / "one", seed=1)).files[0].parent != files[0].parent


def test_the_same_encoder_twice_gives_no_difference_and_another_one_does(
    folder: Path, tmp_path: Path
) -> None:
    other = exported(tmp_path / "other", high_pass=(3, 0.7))
    for target, differs in ((folder / "export", False), (other, True)):
        config = config_of(folder, tmp_path, score="loss_ratio", target_checkpoint=target)
        choose(config)
        assert bool(np.any(scores_of(config))) is differs


def test_random_needs_no_encoder_and_follows_the_seed(folder: Path, tmp_path: Path) -> None:
    found = {
        seed: choose(config_of(folder, tmp_path / f"{seed}", score="random", seed=seed))
        for seed in (0, 1)
    }
    assert found[0].digest != found[1].digest
    assert choose(config_of(folder, tmp_path / "2", score="random")).digest == found[0].digest
    drawn = scores_of(config_of(folder, tmp_path / "0", score="random"))
    assert len(set(drawn)) == 42
    assert 0 <= min(drawn) < 0.2 < 0.8 < max(drawn) < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0.0}, r"--budget 0 must be in \(0, 1\]"),
        ({"budget": 1.01}, r"--budget 1\.01 must be in"),
        ({"budget": 0.04}, "--budget 0.04 of 42 images is 1, too small for a batch"),
        ({"checkpoint": None}, "--score cosine wants --checkpoint"),
        ({"score": "loss_ratio"}, "loss_ratio wants --checkpoint and --target-checkpoint"),
        ({"target_checkpoint": Path("x")}, "--checkpoint, not --target-checkpoint$"),
        ({"score": "random", "checkpoint": Path("x")}, "--score random wants no checkpoint"),
        ({"target": Path("gone")}, "no shards at .*gone"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_written(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        choose(config_of(folder, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
