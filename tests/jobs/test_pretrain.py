"""The command line of pretraining: recipes, overrides, and what it refuses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.pretrain_options import read_command_line
from pipeline.core.errors import InputError
from tests.shard_sets import write_shard_set

ROOT = Path(__file__).resolve().parents[2]
PLACES = ["--shards", "s", "--out", "o"]


def job(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/pretrain.py", *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=120,
    )


def test_the_recipe_is_where_the_fields_start_from() -> None:
    recipe, local, config = read_command_line([*PLACES, "--epochs", "3", "--optim.lr", "0.5"])
    assert (recipe, local) == ("simclr_small", False)
    assert (config.epochs, config.optim.lr) == (3, 0.5)
    assert (config.encoder.architecture, config.views.size) == ("resnet18", 64)
    assert config.shards == (Path.cwd() / "s")
    _, local, paper = read_command_line(["--recipe", "moco_v2_imagenet100", *PLACES, "--local"])
    assert local
    assert (paper.encoder.architecture, paper.epochs) == ("resnet50", 200)


def test_workers_are_a_number_or_as_many_as_fit() -> None:
    numbers = [
        read_command_line([*PLACES, *given])[2].num_workers
        for given in ([], ["--num-workers", "auto"], ["--num-workers", "3"])
    ]
    assert numbers == ["auto", "auto", 3]


def test_relative_paths_of_a_submitted_job_start_at_the_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SALMASK_ROOT", str(tmp_path))
    _, _, config = read_command_line([*PLACES, "--knn.val-shards", "v"])
    assert config.shards == tmp_path / "s"
    assert config.out == tmp_path / "o"
    assert config.knn.val_shards == tmp_path / "v"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "big"], "unknown recipe 'big': choose one of simclr_small"),
        (["--fill", "noise"], "noise"),
        (["--masks.strategy", "salient"], r"salient.*none, random, balanced, shuffled"),
        (
            ["--method", "moco_v2", "--method.quue-size", "3"],
            "--method.quue-size.*Perhaps you meant.*--method.queue-size",
        ),
        (["--method.queue-size", "64"], "--method.queue-size"),
        (["--method", "swav"], "unknown method 'swav': choose one of"),
        (["--simclr.rho", "2"], "--simclr.rho is called --method.rho now"),
        (["--masks.attmask.probability=0.5"], "is called --masks.probability now"),
        (["--masks.foreground", "mean"], "mean.*'std', 'otsu'"),
        (["--method.hard-mass", "0"], r"method.hard_mass 0.0 must be above 0"),
        (["--masks.probability", "1.5"], r"masks.probability 1.5 must be in"),
        (["--epochs", "many"], "--epochs.*many"),
        (["--num-workers", "some"], "--num-workers.*some"),
        (["--num-workers", "0"], "num_workers 0 must be 1 or more"),
        (["--on-damaged", "ignore"], "ignore.*'raise', 'skip'"),
        (["--views.size", "65"], "views.size 65 is not divisible by views.grid 8"),
        (["--encoder.architecture", "resnet19"], "resnet19"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((InputError, SystemExit)) as refused:
        read_command_line([*PLACES, *arguments])
    box = capsys.readouterr().err.splitlines()  # of tyro, for what no config has seen
    said = str(refused.value) + " ".join(line.strip("│ ") for line in box)
    assert re.search(message, said), said


@pytest.mark.starts_ray
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    missing = job("--local", "--shards", str(tmp_path / "none"), "--out", str(tmp_path / "run"))
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: no shards at ")
    assert missing.stderr.count("\n") == 1
    write_shard_set(tmp_path / "shards", num_images=80)
    places = ["--shards", str(tmp_path / "shards"), "--out", str(tmp_path / "run")]
    ranks = job(*places, "--num-workers", "48")
    assert ranks.returncode == 2
    assert "batch 64 cannot be split over 48 ranks" in ranks.stderr
    assert not (tmp_path / "run").exists()
