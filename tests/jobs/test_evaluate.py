import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from jobs.evaluate import run
from jobs.export import run as run_export
from pipeline.backbone.info import BackboneInfo
from pipeline.shardset.manifest import DatasetInfo
from tests.job_here import Done, job_here
from tests.shard_sets import write_images
from tests.training.evaluate.detection.cases import TINY, drawn, write_voc
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"checkpoint": "export", "train": "train", "val": "val", "results": "evaluation"}


NAMES = ("disc", "stripes")


def pictures(num: int, seed: int) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Noisy discs and stripes in turns, and their labels."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:40, 0:48]
    images = []
    for number in range(num):
        y, x = generator.integers(12, 28, 2)
        disc, stripes = (rows - y) ** 2 + (columns - x) ** 2 < 100, (columns + y) // 3 % 2 == 0
        noise = generator.integers(0, 60, (40, 48, 3))
        shape = stripes if number % 2 else disc
        images.append((noise + 150 * shape[..., None]).astype(np.uint8))
    return images, [number % 2 for number in range(num)]


@dataclass(frozen=True)
class Case:
    """An export, two labelled sets and one without labels."""

    folder: Path
    info: BackboneInfo
    train: DatasetInfo
    val: DatasetInfo

    def options(self, **given: str) -> list[str]:
        folders = {name: str(self.folder / value) for name, value in (FOLDERS | given).items()}
        return [word for name, value in folders.items() for word in (f"--{name}", value)]

    def lines(self) -> list[dict[str, Any]]:
        """What was recorded, and taken away."""
        file = self.folder / "evaluation" / "results.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.unlink()
        return lines


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    config = EncoderConfig(architecture="resnet18", stem="small", max_pool=False)
    network, filter_ = build_backbone(config), (3, 0.7)
    info = export_backbone(
        folder / "export", network, config, view_size=32, high_pass=filter_, provenance={}
    )
    train = write_images(folder / "train", *pictures(40, seed=0), NAMES)
    val = write_images(folder / "val", *pictures(20, seed=1), NAMES)
    write_images(folder / "plain", *pictures(20, seed=1))
    return Case(folder, info, train, val)


@pytest.fixture
def evaluate(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    job = job_here(run, monkeypatch, capsys)
    return lambda *more, **given: job("--local", *case.options(**given), *more)


def test_on_ray_as_a_person_runs_it(case: Case, evaluate: Callable[..., Done]) -> None:
    words = [*case.options(), "--checkpoint", "untrained", "--json"]
    done = subprocess.run(
        [sys.executable, "jobs/evaluate.py", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = case.lines()
    given = json.loads(done.stdout)  # Ray and its workers print nothing between
    folder = case.folder / "evaluation"
    assert given == {"file": str(folder / "results.jsonl"), "results": lines}
    said = done.stderr.splitlines()
    assert said[0].startswith(f"scoring {case.folder / 'export'}, untrained by knn, linear: ")
    assert any(line.startswith("untrained: knn ") for line in said), "what the first rank says"
    assert said[-1].startswith(f"results    {folder} ")
    assert [(line["encoder"], line["protocol"]) for line in lines] == [
        (encoder, protocol) for encoder in ("query", "untrained") for protocol in ("knn", "linear")
    ]
    assert lines[0]["checkpoint_digest"] == case.info.weights_sha256
    assert lines[0]["train_digest"] == case.train.plan_digest
    assert lines[0]["val_digest"] == case.val.plan_digest
    assert (lines[0]["num_train"], lines[0]["num_val"]) == (40, 20)
    (row,) = (row for row in said if row.startswith("untrained "))
    for line in lines[2:]:
        assert line["figure"] > 75, "discs and stripes differ even to random filters"
        assert f"{line['figure']:.2f} (" in row
    assert evaluate("--checkpoint", "untrained", "--protocol", "knn").code == 0
    assert case.lines()[-1]["figure"] == lines[2]["figure"]


def test_figures_go_onto_the_card_and_untrained_is_the_same_network_from_a_seed(
    case: Case,
    evaluate: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """With the earlier names of the options."""
    words = ["--backbone", "--train-shards", "--val-shards"]
    folders = [case.folder / name for name in ("export", "train", "val")]
    given = [word for pair in zip(words, folders, strict=True) for word in pair]
    results, job = case.folder / "evaluation", job_here(run, monkeypatch, capsys)
    for seed in ("0", "1"):
        options = ("--checkpoint", "untrained", "--protocol", "knn", "--seed", seed)
        done = job("--local", *given, *options, "--results", results)
        assert done.code == 0, done.err
    export = job_here(run_export, monkeypatch, capsys)
    places = ("--checkpoint", case.folder / "export", "--out", tmp_path / "out")
    assert export(*places, "--results", results, "--formats").code == 0
    trained, first, _, second = case.lines()
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
        ("", {"val": "train"}, "share 40 images (picture-000000.png, picture-000001.png, "),
        ("--k 41", {}, "k = 41: wanted 1 to 40"),
        ("--protocol svm", {}, "linear_paper"),
        ("--protocol detection knn", {}, "--protocol detection by itself"),
        ("--protocol detection --num-workers 2", {}, "detection trains in one process"),
    ],
)
def test_bad_input(
    evaluate: Callable[..., Done], words: str, given: dict[str, str], message: str
) -> None:
    done = evaluate(*words.split(), **given)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert message in done.err


def test_detection_prints_its_own_table(case: Case, evaluate: Callable[..., Done]) -> None:
    write_voc(case.folder / "boxes", drawn(4))
    small = {"val-share": 0.5, "short-sides": 48, "steps": 1, "warmup-steps": 0}
    for name in ("batch_size", "long_side", "width", "head_width", "proposals", "sampled"):
        small[name.replace("_", "-")] = getattr(TINY, name)
    options = [str(word) for name, v in small.items() for word in (f"--detection.{name}", v)]
    done = evaluate("--protocol", "detection", *options, train="boxes", val="boxes")
    assert done.code == 0, done.err
    assert "average precision in %, 2 validation images" in done.out
    assert "box AP50 fpn" in done.out
    assert [line["name"] for line in case.lines()] == ["box AP", "box AP50", "box AP75"]
