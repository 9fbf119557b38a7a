"""An old run trained longer in a new folder: the bits of one that was never stopped."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.pretrain_options import read_command_line
from pipeline.core.errors import InputError
from tests.runs import StopsAfter, numbers, run, small_run, weights
from tests.shard_sets import write_shard_set
from training.config.pretrain import PretrainConfig
from training.config.settings import KnnConfig, OptimConfig
from training.config.stages import AnchorConfig
from training.core.checkpoint import CheckpointStore
from training.engine.preflight import preflight
from training.methods.simclr.settings import SimCLRConfig
from training.stream.config import Stream


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set, with other images and a run of an epoch beside it."""
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root / "train", num_images=42, shard_images=14)
    write_shard_set(root / "other", num_images=42, shard_images=14, first_number=500)
    assert run(config_of(root / "train", root / "old", epochs=1)).step == 5
    return root / "train"


def config_of(shards: Path, out: Path, **changes: Any) -> PretrainConfig:  # noqa: ANN401
    made = {"knn": KnnConfig(), "log_every_steps": 1, "precision": "fp16"}
    return small_run(shards, out, **(made | changes))


def test_what_was_stopped_goes_on_elsewhere_to_the_last_bit(shards: Path, tmp_path: Path) -> None:
    """With loss scaling, whose state goes along, and an anchor."""
    anchored = {"start_from": shards.parent / "old", "anchor": AnchorConfig(kind="l2")}
    whole = config_of(shards, tmp_path / "whole", **anchored)
    assert run(whole).finished
    old = replace(whole, out=tmp_path / "old")
    assert run(old, StopsAfter(7)).step == 7
    new = replace(old, out=tmp_path / "new", extend=old.out)
    assert run(new, StopsAfter(1)).step == 8
    assert run(new).finished
    assert numbers(new.out) == numbers(whole.out)
    ours, theirs = weights(new.out), weights(whole.out)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert (new.out / "contact_sheet.png").exists()
    latest = CheckpointStore(new.out / "checkpoints").latest()
    assert latest is not None
    state = torch.load(latest / "state.pt", weights_only=True)
    assert state["scaler"]["scale"] > 0


def test_a_finished_run_goes_on_by_the_schedule_of_more_epochs(
    shards: Path, tmp_path: Path
) -> None:
    old = config_of(shards, shards.parent / "old", epochs=1)
    words = ["--extend", str(old.out), "--epochs", "3", "--out", str(tmp_path / "new")]
    name, _, new = read_command_line(words)
    assert name == str(old.out / "config.json")
    assert new == replace(old, out=tmp_path / "new", extend=old.out, epochs=3)
    assert run(new).step == 15
    rates = {entry["step"]: entry["lr"] for entry in numbers(new.out) if "lr" in entry}
    assert list(rates) == list(range(1, 16))  # the old record, and the new one
    assert rates[6] == pytest.approx(0.01 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi / 3))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1}, r"has trained 5 steps, and --epochs 1 are 5 in all: name more epochs"),
        ({"batch_size": 16}, r"other settings or images \(batch_size: 8 -> 16\): leave them"),
        ({"method": SimCLRConfig(batch_norm_group=4)}, r"method\.name: moco_v2 -> simclr"),
        ({"shards": "other"}, r"other settings or images \(data_digest: \w+ -> \w+\)"),
        ({"extend": "nothing"}, r"nothing holds no checkpoint: name the folder of a run"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    shards: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    old = config_of(shards, shards.parent / "old", epochs=1)
    given: dict[str, Any] = {
        "epochs": 3,
        "extend": old.out,
        "optim": OptimConfig(lr=0.5),
        **changes,
    }
    for name in ("shards", "extend"):
        if isinstance(given.get(name), str):
            given[name] = (shards.parent if name == "shards" else tmp_path) / given[name]
    with pytest.raises(InputError, match=message):
        preflight(replace(old, out=tmp_path / "new", **given), 1)
    assert not (tmp_path / "new").exists()


def test_a_stream_extends_nothing(shards: Path) -> None:
    with pytest.raises(InputError, match="it is for one run, not for a stream"):
        Stream(stages=(shards,), base=config_of(shards, Path("o"), extend=Path("r")))
