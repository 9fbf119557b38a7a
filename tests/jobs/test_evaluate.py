import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from jobs.cli import main
from jobs.evaluate import run
from pipeline.backbone import BackboneInfo
from pipeline.manifest import DatasetInfo
from training.encoder import EncoderConfig, build_backbone
from training.export import export_backbone

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
        names = {"backbone": "export", "train_shards": "train", "val_shards": "val"} | given
        return [
            word
            for name, value in names.items()
            for word in (f"--{name.replace('_', '-')}", str(self.folder / value))
        ]


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


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def evaluate(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Runs the job in this process, which has imported torch already."""

    def call(*more: str, **given: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *case.options(given), *more])
        with pytest.raises(SystemExit) as exit_info:
            main(run)
        captured = capsys.readouterr()
        assert isinstance(exit_info.value.code, int)
        return Done(exit_info.value.code, captured.out, captured.err)

    return call


def test_table_and_json_as_a_person_runs_it(case: Case) -> None:
    done = subprocess.run(
        [sys.executable, "jobs/evaluate.py", *case.options({})],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *table, line = done.stdout.strip().splitlines()
    figures = json.loads(line)
    assert figures["weights"] == case.info.weights_sha256
    assert figures["train_digest"] == case.shards[0].plan_digest
    assert figures["val_digest"] == case.shards[1].plan_digest
    assert (figures["num_train"], figures["num_val"]) == (40, 20)
    for name in ("knn", "linear"):
        assert figures[name] > 75, "discs and stripes differ even to random filters"
        assert any(name in row and f"{figures[name]:.2f} %" in row for row in table)


def test_untrained_is_the_same_network_from_a_seed(evaluate: Callable[..., Done]) -> None:
    # The export was made with seed 0 and never trained: its untrained twin is itself.
    trained = evaluate("--protocol", "knn")
    untrained = evaluate("--protocol", "knn", "--untrained")
    other = evaluate("--protocol", "knn", "--untrained", "--seed", "1")
    assert trained.code == untrained.code == other.code == 0
    first, second, third = (
        json.loads(done.out.splitlines()[-1]) for done in (trained, untrained, other)
    )
    assert (second["weights"], third["weights"]) == ("random:0", "random:1")
    same = ("knn", "num_train", "num_val", "train_digest", "val_digest")
    assert [second[name] for name in same] == [first[name] for name in same]
    assert "linear" not in second


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backbone": "nowhere"}, "nowhere"),
        ({"backbone": "train"}, "backbone.json"),
        ({"train_shards": "nowhere"}, "nowhere"),
        ({"val_shards": "plain"}, "labels asked for where there are none"),
        ({"val_shards": "train"}, "the same images"),
    ],
)
def test_bad_input(evaluate: Callable[..., Done], given: dict[str, str], message: str) -> None:
    done = evaluate(**given)
    assert done.code == 2
    assert done.out == ""
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_too_many_neighbours_and_unknown_protocol(evaluate: Callable[..., Done]) -> None:
    done = evaluate("--k", "41")
    assert done.code == 2
    assert "k = 41: wanted 1 to 40" in done.err
    done = evaluate("--protocol", "svm")
    assert done.code == 2
    assert all(name in done.err for name in ("knn", "linear", "both"))
