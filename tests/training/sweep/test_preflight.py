"""Data, a cluster or a folder that do not fit a sweep are refused before its first trial."""

import json
import shutil
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.core.errors import InputError
from tests.made_sweeps import small_sweep, write_sets
from training.config.resources import Node, Resources
from training.engine.preflight import checkpoint_size
from training.sweep.config import SWEEP_FILE, Sweep
from training.sweep.preflight import (
    LOCK_FILE,
    check_folder,
    check_trials,
    describe,
    locked,
    share_of,
)
from training.sweep.space import parse_space

TWO_CORES: list[Node] = [{"CPU": 2.0}]
TWO_GPUS: list[Node] = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("shards"))


def sweep_on(root: Path, out: Path, grid: str = "optim.lr=0.01,0.02,0.03,0.04") -> Sweep:
    changes = {"shards": str(root / "train"), "knn.val_shards": str(root / "val")}
    space = parse_space(grid=[grid.replace("VAL", str(root / "val"))])
    return small_sweep(out, space, changes=changes)


@pytest.mark.parametrize(
    ("grid", "ranks", "message"),
    [
        ("optim.lr=0.01,0.02", 3, "cannot be split over 3 ranks"),
        ("batch_size=16,64", 1, r"trial 1 \(batch_size=64\): .*holds 48 images, fewer than"),
        ("data_fraction=1.0,0.1", 1, r"trial 1 \(data_fraction=0.1\): .*0.1 of .*holds 6 images"),
        ("method.queue_size=64,100", 1, r"trial 1 \(method.queue_size=100\): .*100"),
        ("knn.val_shards=VAL,/none", 1, r"trial 1 \(knn.val_shards=/none\): .*no .* at /none"),
    ],
)
def test_the_trial_that_does_not_fit_is_named(
    root: Path, tmp_path: Path, grid: str, ranks: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_trials(sweep_on(root, tmp_path / "out", grid), ranks)


def test_the_checkpoints_of_all_trials_must_fit_on_the_disk(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_on(root, tmp_path / "out")
    size, keep = checkpoint_size(sweep.base), sweep.base.checkpoint.keep
    one = keep * (size.state + size.backbone) + size.backbone
    first = one + size.state + 2 * size.backbone  # with the one that is being written
    free = SimpleNamespace(free=first + 3 * one)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert check_trials(sweep, 1).num_images == 48
    assert not (tmp_path / "out").exists()
    free.free -= 1
    with pytest.raises(InputError, match="checkpoints and those of 3 more runs need"):
        check_trials(sweep, 1)
    (tmp_path / "out" / "trials" / "0003").mkdir(parents=True)  # what it keeps is there already
    check_trials(sweep, 1)


def shares(nodes: list[Node], **given: int | None) -> tuple[int, Resources]:
    options: dict[str, int | None] = {"concurrent": None, "workers": 1, "cpus": None, "most": 8}
    return share_of(nodes, **{**options, **given})  # type: ignore[arg-type]


def laid_out(nodes: list[Node], workers: int, cpus: int) -> int:
    """Trials that fit, by putting one worker after another on the first node with room."""
    needed = {"CPU": cpus, "GPU": any("GPU" in node for node in nodes)}
    free, placed = [{"GPU": 0.0} | node for node in nodes], 0
    while fitting := [node for node in free if all(node[k] >= n for k, n in needed.items())]:
        fitting[0].update({kind: fitting[0][kind] - number for kind, number in needed.items()})
        placed += 1
    return placed // workers


@pytest.mark.parametrize(
    "nodes",
    [
        TWO_CORES,
        TWO_GPUS,
        [{"CPU": 3.0}, {"CPU": 5.0}],
        [{"CPU": 16.0, "GPU": 2.0}],
        [{"CPU": 4.0, "GPU": 4.0}, {"CPU": 8.0}],
        [{"CPU": 0.0}],
    ],
)
def test_as_many_trials_fit_as_can_be_laid_out(nodes: list[Node]) -> None:
    for workers, cpus in product((1, 2, 3), (1, 2, 3)):
        fitting = laid_out(nodes, workers, cpus)
        advice = "not even one trial fits"
        if fitting:
            assert shares(nodes, workers=workers, cpus=cpus, most=99)[0] == fitting
            advice = f"--concurrent {fitting} fits"
        with pytest.raises(InputError, match=advice):
            shares(nodes, workers=workers, cpus=cpus, most=99, concurrent=fitting + 1)


@pytest.mark.parametrize(
    ("nodes", "given", "divided"),
    [
        (TWO_CORES, {}, (2, 1, False)),
        (TWO_CORES, {"concurrent": 1}, (1, 2, False)),
        ([{"CPU": 16.0, "GPU": 4.0}], {}, (4, 4, True)),
        ([{"CPU": 16.0, "GPU": 3.0}], {"workers": 2}, (1, 8, True)),
        ([{"CPU": 16.0}], {"cpus": 4}, (4, 4, False)),
        ([{"CPU": 16.0}], {"concurrent": 9, "most": 2}, (2, 8, False)),
    ],
)
def test_cores_are_divided_among_the_trials(
    nodes: list[Node], given: dict[str, int], divided: tuple[int, int, bool]
) -> None:
    trials, each = shares(nodes, **given)
    assert (trials, each.cpus_per_worker, each.use_gpu) == divided


@pytest.mark.parametrize(
    ("nodes", "given", "message"),
    [
        (TWO_CORES, {"cpus": 4}, "1 x 1 x 4 .*not even one trial fits"),
        ([*TWO_CORES, *TWO_CORES], {"concurrent": 1, "cpus": 3}, "on 2 node.*not even one trial"),
        (TWO_GPUS, {"concurrent": 3}, "CPUs: 3, GPUs: 3; .*has CPUs: 16, GPUs: 2, .* 2 fits"),
    ],
)
def test_what_would_wait_for_ever_is_refused_with_the_arithmetic(
    nodes: list[Node], given: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        shares(nodes, **given)


RANDOM = {"search": "random", "num_trials": 4}


def take(folder: Path, **given: Any) -> None:  # noqa: ANN401
    with locked(folder, describe(small_sweep(folder, **given), "data")):
        assert (folder / LOCK_FILE).exists()


def check(folder: Path, digest: str = "data", **given: Any) -> None:  # noqa: ANN401
    check_folder(folder, describe(small_sweep(folder, **given), digest))


def test_the_same_sweep_is_resumed_however_it_is_run(tmp_path: Path) -> None:
    take(tmp_path, **RANDOM)
    changes = {"num_workers": 2, "log_every_steps": 3, "knn.val_shards": "/elsewhere"}
    check(tmp_path, search="random", num_trials=9, changes=changes, name="other")
    take(tmp_path)
    found = json.loads((tmp_path / SWEEP_FILE).read_text())
    assert found["objective"] == {"name": "knn", "mode": "max"}
    assert found["scheduler"] == {"name": "asha", "grace_epochs": 1, "reduction_factor": 2}
    assert (found["config"]["epochs"], found["seed"], found["num_trials"]) == (4, 0, 4)
    assert found["space"]["optim.lr"] == {"kind": "grid", "values": [0.01, 0.02]}


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
    take(tmp_path)
    with pytest.raises(InputError, match=f"holds another sweep .*{message}"):
        check(tmp_path, **given)


def test_a_sweep_of_an_earlier_program_goes_on(tmp_path: Path) -> None:
    take(tmp_path)
    recorded = json.loads((tmp_path / SWEEP_FILE).read_text())
    for name in ("replay", "anchor", "selection", "start_from"):
        del recorded["config"][name]
    (tmp_path / SWEEP_FILE).write_text(json.dumps(recorded))
    check(tmp_path)
    recorded["config"]["no_such_field"] = 1
    (tmp_path / SWEEP_FILE).write_text(json.dumps(recorded))
    with pytest.raises(InputError, match=r"sweep\.json is damaged .*no_such_field"):
        check(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="exists and is no sweep"):
            check(folder)
    check(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    for text in ("{", '{"version": 99}', "[]"):
        (tmp_path / SWEEP_FILE).write_text(text)
        with pytest.raises(InputError, match=r"sweep\.json is damaged"):
            check(tmp_path)


def test_a_second_driver_is_refused_while_the_first_holds_the_folder(tmp_path: Path) -> None:
    with locked(tmp_path, {}), pytest.raises(InputError, match="another process runs the sweep"):
        take(tmp_path)
    take(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        take(tmp_path / "file" / "sweep")
