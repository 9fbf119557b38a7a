import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from jobs.cli import main
from jobs.evaluate import run
from jobs.export import run as run_export
from pipeline.backbone.info import BackboneInfo
from pipeline.shardset.manifest import DatasetInfo
from tests.job_here import Done, job_here
from tests.training.evaluate.detection.cases import drawn, write_voc
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("disc", "stripes")


def pictures(num: int, seed: int) -> tuple[list[NDArray[np.uint8]], list[int]]:
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:40, 0:48]
    images = []
    for i in range(num):
        at = generator.integers(12, 28, 2)
        disc = (rows - at[0]) ** 2 + (columns - at[1]) ** 2 < 100
        shape = (columns + at[0]) // 3 % 2 == 0 if i % 2 else disc
        noise = generator.integers(0, 60, (40, 48, 3))
        images.append((noise + 150 * shape[..., None]).astype(np.uint8))
    return images, [i % 2 for i in range(num)]


class Case:
    """An export, two labelled sets and one without labels."""

    def __init__(self, folder: Path, info: BackboneInfo, shards: tuple[DatasetInfo, ...]) -> None:
        self.folder, self.info, self.shards = folder, info, shards

    def options(self, given: dict[str, str]) -> list[str]:
        names = {"checkpoint": "export", "train": "train", "val": "val"}
        names |= {"results": "evaluation"} | given
        return [
            word
            for name, value in names.items()
            for word in (f"--{name.replace('_', '-')}", str(self.folder / value))
        ]

    def lines(self) -> list[dict[str, object]]:
        """What was recorded, and taken away."""
        file = self.folder / "evaluation" / "results.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.unlink()
        return lines


@pytest.fixture(scope="module")
def case(
    tmp_path_factory: pytest.TempPathFactory, make_labelled_shards: Callable[..., DatasetInfo]
) -> Case:
    folder = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    config = EncoderConfig(architecture="resnet18", stem="small", max_pool=False)
    info = export_backbone(
        folder / "export",
        build_backbone(config),
        config,
        view_size=32,
        high_pass=(3, 0.7),
        provenance={},
    )
    shards = (
        make_labelled_shards(folder / "train", *pictures(40, seed=0), NAMES),
        make_labelled_shards(folder / "val", *pictures(20, seed=1), NAMES),
    )
    make_labelled_shards(folder / "plain", *pictures(20, seed=1))
    return Case(folder, info, shards)


@pytest.fixture
def evaluate(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    job = job_here(run, monkeypatch, capsys)
    return lambda *more, **given: job("--local", *case.options(given), *more)


@pytest.mark.starts_ray
def test_on_ray_as_a_person_runs_it(case: Case) -> None:
    words = [*case.options({}), "--checkpoint", "untrained", "--num-workers", "2", "--json"]
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
    assert lines[0]["train_digest"] == case.shards[0].plan_digest
    assert lines[0]["val_digest"] == case.shards[1].plan_digest
    assert (lines[0]["num_train"], lines[0]["num_val"]) == (40, 20)
    (row,) = (row for row in said if row.startswith("untrained "))
    for line in lines[2:]:
        figure = line["figure"]
        assert isinstance(figure, float)
        assert figure > 75, "discs and stripes differ even to random filters"
        assert f"{figure:.2f} (" in row


def test_untrained_is_the_same_network_from_a_seed(
    case: Case, evaluate: Callable[..., Done]
) -> None:
    for seed in ("0", "1"):
        done = evaluate("--protocol", "knn", "--checkpoint", "untrained", "--seed", seed)
        assert done.code == 0, done.err
    _, first, _, second = case.lines()
    digests = (first["checkpoint_digest"], second["checkpoint_digest"])
    assert digests == ("random:0,1,2", "random:1,2,3")
    by_seed, shifted = first["more"], second["more"]
    assert isinstance(by_seed, dict)
    assert isinstance(shifted, dict)
    assert [by_seed[f"seed {n}"] for n in (1, 2)] == [shifted[f"seed {n}"] for n in (1, 2)]
    assert str(case.folder / "evaluation") in done.out


def test_the_old_names_of_the_options(case: Case, evaluate: Callable[..., Done]) -> None:
    words = ["--backbone", "--train-shards", "--val-shards"]
    folders = [str(case.folder / name) for name in ("export", "train", "val")]
    given = [word for pair in zip(words, folders, strict=True) for word in pair]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case, "options", lambda _: given)
        done = evaluate("--protocol", "knn", "--results", str(case.folder / "evaluation"))
    assert done.code == 0, done.err
    assert len(case.lines()) == 1


def test_figures_go_onto_the_card(
    case: Case,
    evaluate: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    assert evaluate("--protocol", "knn").code == 0
    options = {
        "--checkpoint": case.folder / "export",
        "--out": tmp_path / "out",
        "--results": case.folder / "evaluation",
    }
    words = [str(word) for pair in options.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["export.py", *words, "--formats"])
    with pytest.raises(SystemExit, match="0"):
        main(run_export)
    (line,) = case.lines()
    assert f"| knn | val | {line['figure']:.2f} | " in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"checkpoint": "nowhere"}, "nowhere"),
        ({"checkpoint": "train"}, "backbone.json"),
        ({"train": "nowhere"}, "nowhere"),
        ({"val": "plain"}, "plain has no labels: run jobs/precompute.py"),
        ({"val": "train"}, "share 40 images (picture-000000.png, picture-000001.png, "),
    ],
)
def test_bad_input(evaluate: Callable[..., Done], given: dict[str, str], message: str) -> None:
    done = evaluate(**given)
    assert done.code == 2
    assert done.out.startswith("scoring ")
    assert done.out.count("\n") == 1
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_too_many_neighbours_and_unknown_protocol(evaluate: Callable[..., Done]) -> None:
    done = evaluate("--k", "41")
    assert done.code == 2
    assert "k = 41: wanted 1 to 40" in done.err
    done = evaluate("--protocol", "svm")
    assert done.code == 2
    assert all(name in done.err for name in ("knn", "linear_paper", "finetune", "diagnostics"))


def test_detection_prints_its_own_table(case: Case, evaluate: Callable[..., Done]) -> None:
    write_voc(case.folder / "boxes", drawn(4))
    small: dict[str, float] = {
        "steps": 1,
        "warmup-steps": 0,
        "batch-size": 2,
        "short-sides": 48,
        "long-side": 64,
    }
    small |= {"width": 8, "head-width": 8, "proposals": 5, "sampled": 4, "val-share": 0.5}
    options = [
        str(word) for name, value in small.items() for word in (f"--detection.{name}", value)
    ]
    words = ["--protocol", "detection", *options]
    done = evaluate(*words, train="boxes", val="boxes")
    assert done.code == 0, done.err
    assert "average precision in %, 2 validation images" in done.out
    assert "box AP50 fpn" in done.out
    assert [line["name"] for line in case.lines()] == ["box AP", "box AP50", "box AP75"]
    done = evaluate(*words, "--num-workers", "2", train="boxes", val="boxes")
    assert done.code == 2
    assert "detection trains in one process" in done.err
    done = evaluate("--protocol", "detection", "knn")
    assert done.code == 2
    assert "--protocol detection by itself" in done.err
