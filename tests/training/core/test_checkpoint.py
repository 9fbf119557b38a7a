import errno
import json
import os
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import InputError
from training.core.checkpoint import CheckpointStore, load_state


def save(store: CheckpointStore, step: int) -> None:
    weights = torch.full((3,), float(step))
    state, config = {"step": step, "weights": weights}, {"epochs": 2, "shards": Path("here")}
    store.save(step, state, config, lambda folder: folder.mkdir())


def test_what_is_saved_is_loaded_and_damage_is_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 7)
    folder = store.latest()
    assert folder == tmp_path / "step-00000007"
    state = load_state(folder, torch.device("cpu"))
    assert state["step"] == 7
    assert torch.equal(state["weights"], torch.full((3,), 7.0))
    assert json.loads((folder / "config.json").read_text()) == {"epochs": 2, "shards": "here"}
    assert (folder / "backbone").is_dir()
    path = folder / "state.pt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"step-00000007.state\.pt cannot be read"):
        load_state(folder, torch.device("cpu"))


def test_keeps_the_newest_and_finds_the_latest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None
    for step in (5, 10, 100, 100):
        save(store, step)
    assert (store.steps(), store.latest()) == ([10, 100], tmp_path / "step-00000100")


def test_a_write_that_breaks_off_leaves_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1)

    def broken(_folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    message = r"step-00000002 cannot be written: No space left on device; free some space"
    with pytest.raises(InputError, match=message):
        store.save(2, {"step": 2}, {}, broken)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    save(store, 2)
    assert store.steps() == [1, 2]
