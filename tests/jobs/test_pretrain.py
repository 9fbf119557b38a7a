"""The command line of pretraining: recipes, overrides, and what it refuses."""

import re
from pathlib import Path

import pytest

from jobs import stream_options, sweep_options
from jobs.pretrain import run
from jobs.pretrain_options import find_base, read_command_line, runs_here
from pipeline.core.errors import InputError
from tests.job_here import job_here
from tests.shard_sets import write_shard_set

PLACES = ["--shards", "s", "--out", "o", "--knn.val-shards", "v"]


def test_the_recipe_is_where_the_fields_start_from() -> None:
    recipe, local, config = read_command_line([*PLACES, "--epochs", "3", "--optim.lr", "0.5"])
    assert (recipe, local) == ("simclr_small", None)
    assert (config.epochs, config.optim.lr, config.num_workers) == (3, 0.5, "auto")
    assert (config.encoder.architecture, config.views.size) == ("resnet18", 64)
    places = (config.shards, config.out, config.knn.val_shards)
    assert places == tuple(Path.cwd() / name for name in "sov")
    words = ["--recipe", "moco_v2_imagenet100", *PLACES, "--local", "--num-workers", "3"]
    _, local, paper = read_command_line(words)
    assert local
    assert (paper.encoder.architecture, paper.epochs, paper.num_workers) == ("resnet50", 200, 3)


def test_weights_to_start_from_are_a_place_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's workers have another working folder."""
    (tmp_path / "w").mkdir()
    monkeypatch.chdir(tmp_path)
    for given, wanted in (("w", str(tmp_path / "w")), ("torchvision", "torchvision")):
        config = read_command_line([*PLACES, "--encoder.init", given])[2]
        assert config.encoder.init == wanted


@pytest.mark.parametrize("words", [["--out", "{}"], ["--out={}"]])
def test_a_run_may_be_in_a_bucket(words: list[str]) -> None:
    url = "s3://bucket/runs/first?endpoint_override=http://host:9000"
    given = ["--shards", "s", *(word.format(url) for word in words)]
    config = read_command_line(given)[2]
    assert (config.bucket, config.out.name) == (url, "first")
    assert config.place == config.to_json()["out"] == "s3://bucket/runs/first"
    assert "9000" not in str(config.to_json())
    plain, longer = "s3://bucket/first", "s3://bucket/first-0"
    config = read_command_line(["s", plain, "--start-from", longer])[2]
    assert (config.bucket, config.start_from) == (plain, longer)
    with pytest.raises(SystemExit):
        read_command_line([*given, "--bucket", url])
    for other in (sweep_options, stream_options):
        with pytest.raises(InputError, match="--out s3://bucket/runs/first is in a bucket: wanted"):
            other.read_options(given, "")


@pytest.mark.parametrize(
    ("words", "address", "gpus", "here"),
    [
        ("", "", 1, True),
        ("", "", 2, False),
        ("", "127.0.0.1:1", 0, False),
        ("--num-workers 1", "", 2, True),
        ("--num-workers 2", "", 1, False),
        ("--local --num-workers 2", "127.0.0.1:1", 2, True),
        ("--ray", "", 0, False),
    ],
)
def test_one_worker_trains_without_ray(
    monkeypatch: pytest.MonkeyPatch, words: str, address: str, gpus: int, here: bool
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    _, local, config = read_command_line([*PLACES, *words.split()])
    assert runs_here(local, config.num_workers) is here
    with pytest.raises(InputError, match="--local and --ray: give one of them"):
        read_command_line([*PLACES, "--local", "--ray"])


def test_a_file_that_settings_start_from_is_read_before_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    path.write_text('{"shards": "/data", "epochs": 7, "masks": {"query_ratio": [0.1, 0.2]}}')
    words = ["--config", str(path), "--out", "o", "--local", "--optim.lr", "0.5"]
    name, local, config = read_command_line(words)
    assert (name, local, config.shards) == (str(path), True, Path("/data"))
    assert (config.epochs, config.masks.query_ratio, config.optim.lr) == (7, (0.1, 0.2), 0.5)
    for words, message in (
        (["--recipe"], "--recipe"),
        (["--recipe", "debug", "--config", "F"], "both given"),
        (["--config", "F", "--extend", "R"], "--config and --extend are both given"),
        (["--config", "nowhere.json"], "nowhere.json"),
    ):
        with pytest.raises(InputError, match=message):
            find_base(words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--recipe big", "unknown recipe 'big': choose one of simclr_small"),
        ("--masks.strategy salient", r"salient.*none, random, balanced, shuffled"),
        (
            "--method moco_v2 --method.quue-size 3",
            "--method.quue-size.*Perhaps you meant.*--method.queue-size",
        ),
        ("--method.queue-size 64", "--method.queue-size"),
        ("--method swav", "unknown method 'swav': choose one of"),
        ("--simclr.rho 2", "--simclr.rho is called --method.rho now, with --method simclr"),
        ("--moco.rho 2", "--moco.rho is called --method.rho now, with --method moco_v2"),
        ("--method.rho=1", "--method.rho has no effect .* 0: there are no hard negatives"),
        ("--method.object-head both", "both takes hard negatives.*give --method.hard-negatives 1"),
        (
            "--recipe moco_v2_imagenet100 --method.object_rho 1",
            "--method.object-rho has no effect beside --method.object-head off",
        ),
        ("--method.local-weight 0.5", "--method.local-weight has no effect without --views.local"),
        ("--views.local_tries=4", "--views.local-tries has no effect without --views.local"),
        ("--replay.share 0.3", "--replay.share has no effect without --replay.shards"),
        ("--anchor.strength 1", "--anchor.strength has no effect beside --anchor.kind none"),
        ("--masks.attmask.probability=0.5", "is called --masks.probability now"),
        ("--masks.foreground mean", "mean.*'std', 'otsu'"),
        ("--masks.probability 1.5", r"masks.probability 1.5 must be in"),
        ("--epochs many", "--epochs.*many"),
        ("--num-workers some", "--num-workers.*some"),
        ("--num-workers 0", "num_workers 0 must be 1 or more"),
        ("--on-damaged ignore", "ignore.*'raise', 'skip'"),
        ("--views.size 65", "views.size 65 is not divisible by views.grid 8"),
        ("--encoder.architecture resnet19", "resnet19"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((InputError, SystemExit)) as refused:
        read_command_line([*PLACES, *arguments.split()])
    box = capsys.readouterr().err.splitlines()  # of tyro, for what no config has seen
    said = str(refused.value) + " ".join(line.strip("│ ") for line in box)
    assert re.search(message, said), said


def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--local", "--shards", tmp_path / "none", "--out", tmp_path / "run")
    missing = job_here(run, monkeypatch, capsys)(*words)
    assert (missing.code, missing.err.count("\n")) == (2, 1)
    assert missing.err.startswith("error: no shards at ")
    assert list(tmp_path.iterdir()) == []


def test_a_step_is_run_again_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard_set(tmp_path / "shards", num_images=36, shard_images=18)
    words = ("--recipe", "debug", "--shards", tmp_path / "shards", "--out", tmp_path / "run")
    job = job_here(run, monkeypatch, capsys)
    done = job(*words, "--replay-step", "2")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"step 2, from the checkpoint of step 0\nloss +\d\.\d+\nimages +\w+", done.out)
    refused = job(*words, "--replay-step", "5")
    assert (refused.code, refused.err.startswith("error: --replay-step 5 must be from 1 to 4")) == (
        2,
        True,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
