"""sweep.json: the same sweep is resumed, another one is refused by what differs; one driver."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from tests.made_sweeps import small_sweep
from training.sweep.description import (
    LOCK_FILE,
    SWEEP_FILE,
    check_folder,
    describe,
    locked,
    write_description,
)
from training.sweep.space import parse_space

RANDOM = {"search": "random", "num_trials": 4}


def write(out: Path, **given: Any) -> None:  # noqa: ANN401
    write_description(out, describe(small_sweep(out, **given), "data"))


def test_it_has_what_a_reader_needs(tmp_path: Path) -> None:
    write(tmp_path)
    found = json.loads((tmp_path / SWEEP_FILE).read_text())
    assert found["objective"] == {"name": "knn", "mode": "max"}
    assert found["scheduler"] == {"name": "asha", "grace_epochs": 1, "reduction_factor": 2}
    assert (found["config"]["epochs"], found["seed"], found["num_trials"]) == (4, 0, 4)
    assert found["space"]["optim.lr"] == {"kind": "grid", "values": [0.01, 0.02]}


def test_the_same_sweep_is_resumed_however_it_is_run(tmp_path: Path) -> None:
    write(tmp_path, **RANDOM)
    changes = {"num_workers": 2, "log_every_steps": 3, "knn.val_shards": "/elsewhere"}
    more = small_sweep(tmp_path, search="random", num_trials=9, changes=changes, name="other")
    check_folder(more, "data")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"digest": "other"}, "data_digest: data -> other"),
        ({"changes": {"seed": 3, "knn.k": 3}}, "knn.k: 20 -> 3; seed: 0 -> 3"),
        ({"search_seed": 3}, "seed: 0 -> 3"),
        ({"changes": {"method.rho": 3}}, "method.rho: 2.0 -> 3.0"),
        ({"scheduler": "none"}, "scheduler.name: asha -> none"),
        (
            {"space": parse_space(grid=["optim.lr=0.01,0.03"])},
            r"masks\.query_ratio\.values: .*0\.4\] -> None; space\.optim\.lr\.values: .*0\.03\]",
        ),
        (RANDOM, "search: grid -> random"),
    ],
)
def test_another_sweep_is_refused_by_name(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    write(tmp_path)
    settings = dict(given)
    digest = settings.pop("digest", "data")
    with pytest.raises(InputError, match=f"holds another sweep .*{message}"):
        check_folder(small_sweep(tmp_path, **settings), digest)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="exists and is no sweep"):
            check_folder(small_sweep(folder), "data")
    check_folder(small_sweep(tmp_path / "new"), "data")
    assert not (tmp_path / "new").exists()
    for text in ("{", '{"version": 99}', "[]"):
        (tmp_path / SWEEP_FILE).write_text(text)
        with pytest.raises(InputError, match=r"sweep\.json is damaged"):
            check_folder(small_sweep(tmp_path), "data")


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


def take(folder: Path) -> None:
    with locked(folder):
        assert (folder / LOCK_FILE).exists()


def test_a_second_driver_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    take(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path / LOCK_FILE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InputError, match="another process runs the sweep"):
            take(tmp_path)
        other.kill()
        other.wait()
    take(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        take(tmp_path / "file" / "sweep")
