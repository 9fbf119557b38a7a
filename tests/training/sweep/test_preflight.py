"""What is wrong with a trial's data is said before the first trial."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.core.errors import InputError
from tests.shard_sets import write_shard_set
from tests.training.sweep.small_sweeps import small_sweep
from training.engine.preflight import checkpoint_size
from training.sweep.preflight import check_trials
from training.sweep.space import parse_space


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root / "train", num_images=48)
    write_shard_set(root / "val", num_images=18, first_number=1000)
    return root


def changes(root: Path) -> dict[str, str]:
    return {"shards": str(root / "train"), "knn.val_shards": str(root / "val")}


def test_a_sweep_that_fits_passes_and_writes_nothing(root: Path, tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path / "out", changes=changes(root))
    assert check_trials(sweep).num_images == 48
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("batch_size=16,64", r"trial 1 \(batch_size=64\): .*holds 48 images, fewer than"),
        ("data_fraction=1.0,0.1", r"trial 1 \(data_fraction=0.1\): .* 0.1 of .*holds 6 images"),
        ("method.queue_size=64,100", r"trial 1 \(method.queue_size=100\): .*100"),
        ("knn.val_shards=VAL,/none", r"trial 1 \(knn.val_shards=/none\): .*no .* at /none"),
    ],
)
def test_the_trial_that_does_not_fit_is_named(
    root: Path, tmp_path: Path, space: str, message: str
) -> None:
    grid = parse_space(grid=[space.replace("VAL", str(root / "val"))])
    sweep = small_sweep(tmp_path / "out", grid, changes=changes(root))
    with pytest.raises(InputError, match=message):
        check_trials(sweep)


def test_ranks_that_cannot_share_a_batch_are_refused(root: Path, tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path / "out", changes=changes(root))
    with pytest.raises(InputError, match="cannot be split over 3 ranks"):
        check_trials(sweep, num_ranks=3)


def test_the_checkpoints_of_all_trials_must_fit_on_the_disk(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = small_sweep(tmp_path / "out", changes=changes(root))
    size = checkpoint_size(sweep.base)
    keep = sweep.base.checkpoint.keep
    one = keep * (size.state + size.backbone) + size.backbone
    first = one + size.state + 2 * size.backbone  # with the one that is being written
    free = SimpleNamespace(free=first + 3 * one)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    check_trials(sweep)
    free.free -= 1
    with pytest.raises(InputError, match="checkpoints and those of 3 more runs need"):
        check_trials(sweep)
    (tmp_path / "out" / "trials" / "0003").mkdir(parents=True)  # what it keeps is there already
    check_trials(sweep)
