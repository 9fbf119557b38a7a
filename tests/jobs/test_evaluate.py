import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.evaluate import run
from jobs.export import run as run_export
from pipeline.backbone.folder import load_info
from pipeline.shardset.manifest import load_dataset_info
from tests.job_here import Done, job_here
from tests.shard_sets import write_images
from tests.training.evaluate.cases import NAMES, exported, pictures
from tests.training.evaluate.detection.cases import TINY, drawn, write_voc

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"checkpoint": "export", "train": "train", "val": "val", "results": "evaluation"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, two labelled sets and one without labels."""
    folder = tmp_path_factory.mktemp("evaluate")
    exported(folder / "export", high_pass=(3, 0.7))
    for name, num, seed in (("train", 42, 0), ("val", 21, 1)):
        write_images(folder / name, *pictures(num, seed, contrast=55), NAMES)
    write_images(folder / "plain", *pictures(21, seed=1))
    return folder


def options(folder: Path, **given: str) -> list[str]:
    named = {name: str(folder / value) for name, value in (FOLDERS | given).items()}
    return [word for name, value in named.items() for word in (f"--{name}", value)]


def recorded(folder: Path) -> list[dict[str, Any]]:
    """What was recorded, and is taken away."""
    file = folder / "evaluation" / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.unlink()
    return lines


@pytest.fixture
def evaluate(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    job = job_here(run, monkeypatch, capsys)
    return lambda *more, **given: job("--local", *options(folder, **given), *more)


def test_on_ray_as_a_person_runs_it(folder: Path, evaluate: Callable[..., Done]) -> None:
    words = [*options(folder), "--checkpoint", "untrained", "--json"]
    done = subprocess.run(
        [sys.executable, "jobs/evaluate.py", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines, results = recorded(folder), folder / "evaluation"
    given = json.loads(done.stdout)  # Ray and its workers print nothing between
    assert given == {"file": str(results / "results.jsonl"), "results": lines}
    said = done.stderr.splitlines()
    assert said[0].startswith(f"scoring {folder / 'export'}, untrained by knn, linear: ")
    assert any(line.startswith("untrained: knn ") for line in said), "what the first rank says"
    assert said[-1].startswith(f"results    {results} ")
    assert [(line["encoder"], line["protocol"]) for line in lines] == [
        (encoder, protocol) for encoder in ("query", "untrained") for protocol in ("knn", "linear")
    ]
    assert lines[0]["checkpoint_digest"] == load_info(folder / "export").weights_sha256
    for part, num in (("train", 42), ("val", 21)):
        assert lines[0][f"{part}_digest"] == load_dataset_info(folder / part).plan_digest
        assert lines[0][f"num_{part}"] == num
    (row,) = (row for row in said if row.startswith("untrained "))
    for line in lines[2:]:
        assert f"{line['figure']:.2f} (" in row
    assert evaluate("--checkpoint", "untrained", "--protocol", "knn").code == 0
    assert recorded(folder)[-1]["figure"] == lines[2]["figure"]


def test_figures_go_onto_the_card_and_untrained_is_the_same_network_from_a_seed(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """With the earlier names of the options."""
    words = ["--backbone", "--train-shards", "--val-shards"]
    given = [
        str(word)
        for name, place in zip(words, ("export", "train", "val"), strict=True)
        for word in (name, folder / place)
    ]
    results, job = ("--results", folder / "evaluation"), job_here(run, monkeypatch, capsys)
    for seed in ("0", "1"):
        chosen = ("--checkpoint", "untrained", "--protocol", "knn", "--seed", seed)
        done = job("--local", *given, *chosen, *results)
        assert done.code == 0, done.err
    export = job_here(run_export, monkeypatch, capsys)
    places = ("--checkpoint", folder / "export", "--out", tmp_path / "out")
    assert export(*places, *results, "--formats").code == 0
    trained, first, _, second = recorded(folder)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| knn | val | {trained['figure']:.2f} | " in card
    digests = (first["checkpoint_digest"], second["checkpoint_digest"])
    assert digests == ("random:0,1,2", "random:1,2,3")
    assert all(first["more"][f"seed {n}"] == second["more"][f"seed {n}"] for n in (1, 2))


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        ("", {"checkpoint": "nowhere"}, "nowhere"),
        ("", {"checkpoint": "train"}, "backbone.json"),
        ("", {"val": "plain"}, "plain has no labels: run jobs/precompute.py"),
        ("--protocol svm", {}, "linear_paper"),
        ("--protocol detection knn", {}, "--protocol detection by itself"),
    ],
)
def test_bad_input(
    evaluate: Callable[..., Done], words: str, given: dict[str, str], message: str
) -> None:
    done = evaluate(*words.split(), **given)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: ")
    assert message in done.err


def test_narrower_networks_are_rows(folder: Path, evaluate: Callable[..., Done]) -> None:
    few = ("--channels.budgets", "0.5", "--channels.images", "8", "--channels.rounds", "2")
    done = evaluate("--protocol", "channels", *few)
    assert done.code == 0, done.err
    cost, accuracies = done.out.split("top-1 in %")
    assert re.search(r"cost of an image.*\n +GMAC +ms\n\S+/export 0\.5 +0\.\d+ +\d+\.\d+ \(", cost)
    assert re.search(r"export 0\.5 +\d.*\n\S+/export 0\.5 random +\d", accuracies)
    assert len(recorded(folder)) == 6


def test_detection_prints_its_own_table(folder: Path, evaluate: Callable[..., Done]) -> None:
    write_voc(folder / "boxes", drawn(4))
    small = {"val-share": 0.5, "short-sides": 48, "steps": 1, "warmup-steps": 0}
    for name in ("batch_size", "long_side", "width", "head_width", "proposals", "sampled"):
        small[name.replace("_", "-")] = getattr(TINY, name)
    words = [str(word) for name, v in small.items() for word in (f"--detection.{name}", v)]
    done = evaluate("--protocol", "detection", *words, train="boxes", val="boxes")
    assert done.code == 0, done.err
    assert "average precision in %, 2 validation images" in done.out
    assert "box AP50 fpn" in done.out
    assert [line["name"] for line in recorded(folder)] == ["box AP", "box AP50", "box AP75"]
