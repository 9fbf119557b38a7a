"""The ablation on a made-up set: two cells run once, are recorded, resume, and make a table."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.ablation import AblationConfig, chosen_cells, different, gpu_cells, run
from tests.benchmarks.ablation_cells import Cell, Setting, cell_config
from tests.benchmarks.ablation_records import (
    PLOT_FILE,
    RECORDS_FILE,
    read_records,
    table,
)
from tests.shard_sets import write_shard_set


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    root = tmp_path_factory.mktemp("ablation")
    write_shard_set(root / "train", num_images=48, shard_images=16)
    write_shard_set(root / "val", num_images=24, first_number=1000)
    return Setting(
        train_shards=root / "train",
        val_shards=root / "val",
        out=root / "out",
        recipe="debug",
        epochs=2,
    )


def test_two_cells_are_run_once_and_recorded(
    setting: Setting, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["--preset", "debug", "--out", str(setting.out), "--jobs", "2"]
    shards = ["--train-shards", str(setting.train_shards), "--val-shards", str(setting.val_shards)]
    assert run(command + shards) == 0
    first = capfd.readouterr().out
    assert first.count("started  ") == 2
    assert first.count("\nfinished ") == 2
    records = read_records(setting.out)
    assert {r["cell"]["negatives"] for r in records} == {"no", "own"}
    for record in records:
        assert record["knn_interval"][0] <= record["knn"] <= record["knn_interval"][1]
        assert record["linear_interval"][0] <= record["linear"] <= record["linear_interval"][1]
        assert [step for step, _ in record["knn_curve"]] == [0, 3, 6]
        assert record["train_seconds"] > 0
        assert (setting.out / "runs" / record["digest"] / "backbone").is_dir()

    before = (setting.out / RECORDS_FILE).read_bytes()
    assert run(command + shards) == 0
    again = capfd.readouterr().out
    assert "2 different runs, 2 of them finished" in again
    assert "started" not in again
    assert (setting.out / RECORDS_FILE).read_bytes() == before

    # A record that was lost is made again from the finished run, which is not trained again.
    (setting.out / RECORDS_FILE).write_bytes(before.splitlines(keepends=True)[0] + b'{"torn')
    trained = sorted(setting.out.glob("runs/*/checkpoints/*/state.pt"))
    stamps = [path.stat().st_mtime_ns for path in trained]
    assert run(command + shards) == 0
    assert [path.stat().st_mtime_ns for path in trained] == stamps
    assert {r["digest"]: r["knn"] for r in read_records(setting.out)} == {
        r["digest"]: r["knn"] for r in records
    }

    capfd.readouterr()
    assert run(["--table", "--out", str(setting.out)]) == 0
    shown = capfd.readouterr().out
    assert "| moco_v2 | none | no | mean | recipe | 2 | 1 |" in shown
    assert (setting.out / PLOT_FILE).exists() or "matplotlib is not installed" in shown


def test_the_same_run_is_one_cell() -> None:
    config = AblationConfig(out=Path("out"), fills=("mean", "blur", "high_pass"))
    cells = chosen_cells(config)
    assert len(cells) == 2 * 2 * 3
    kept = different(cells)
    assert len(kept) == 2 * 2 * 3 - 1
    unmasked = [c.fill for c in kept if (c.strategy, c.negatives) == ("none", "no")]
    assert unmasked == ["mean", "high_pass"]


def test_cells_become_the_runs_that_they_say(setting: Setting) -> None:
    released = Cell(
        method="simclr", strategy="shuffled", negatives="released", fill="blur", seed=3, lr=0.5
    )
    config = cell_config(released, setting)
    assert (config.method, config.fill, config.seed) == ("simclr", "blur", 3)
    assert (config.masks.strategy, config.masks.behaviour) == ("shuffled", "released")
    assert (config.simclr.hard_negatives, config.optim.lr) == (1, 0.5)
    assert config.knn.val_shards == setting.val_shards
    baseline = cell_config(Cell(method="moco_v2", strategy="none", negatives="no"), setting)
    assert (baseline.masks.behaviour, baseline.moco.hard_negatives) == ("paper", 0)
    folders = {
        cell_config(cell, setting).out
        for cell in (
            released,
            Cell(method="moco_v2", strategy="none", negatives="no"),
            Cell(method="moco_v2", strategy="none", negatives="no", seed=1),
            Cell(method="moco_v2", strategy="none", negatives="own"),
        )
    }
    assert len(folders) == 4


def test_the_gpu_runs_whole_comparisons_first() -> None:
    cells = gpu_cells(0.02)
    assert [(c.strategy, c.negatives, c.seed) for c in cells[:5]] == [
        ("none", "no", 0),
        ("random", "no", 0),
        ("balanced", "no", 0),
        ("balanced", "own", 0),
        ("none", "no", 1),
    ]
    assert len(different(cells)) == len(cells)


def test_seeds_share_a_line_of_the_table() -> None:
    def record(seed: int, knn: float) -> dict[str, object]:
        cell = {"method": "simclr", "strategy": "random", "negatives": "no", "fill": "mean"}
        return {
            "digest": str(seed),
            "cell": {**cell, "seed": seed, "lr": None},
            "epochs": 5,
            "view_size": 64,
            "knn": knn,
            "knn_interval": [knn - 2, knn + 2],
            "linear": 50.0,
            "linear_interval": [48.0, 52.0],
            "num_val": 1200,
            "knn_curve": [[0, 30.0]],
            "train_seconds": 90.0,
        }

    records = json.loads(json.dumps([record(0, 40.0), record(1, 44.0)]))
    line = table(records).splitlines()[2]
    assert line == (
        "| simclr | random | no | mean | recipe | 5 | 2 | 42.0 [40.0, 44.0], sd 2.8 "
        "| 50.0 [48.0, 52.0], sd 0.0 | 1.5 |"
    )
    assert len(table(records).splitlines()) == 5
