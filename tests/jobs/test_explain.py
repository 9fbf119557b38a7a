"""The command as users type it: from an export and shards to a saliency source."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import parse
from jobs.explain import run
from pipeline.core.errors import InputError
from pipeline.saliency.registry import parse_saliency_source
from tests.job_here import Done, job_here
from tests.runs import NETWORK
from tests.shard_sets import picture, write_shard_set
from tests.training.evaluate.cases import exported
from training.explain.config import ExplainConfig


@pytest.fixture
def explain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Done]:
    """The job in a folder with an export and shards."""
    exported(tmp_path / "run" / "backbone", NETWORK, high_pass=(3, 0.7))
    write_shard_set(tmp_path / "shards", num_images=20)
    monkeypatch.setenv("SALMASK_ROOT", str(tmp_path))
    return job_here(run, monkeypatch, capsys)


def test_the_options_are_a_contract() -> None:
    words = """--checkpoint R --shards S --out E --second T --prototypes 50 --temperature 0.2
        --entropy-weight 2 --variation-weight 3 --area-weight 4 --area 0.1 0.4 --width 8 --steps 5
        --batch-size 6 --lr 0.5 --seed 7 --checkpoint-steps 8"""
    places: dict[str, Any] = {
        "checkpoint": Path("R"),
        "shards": "S",
        "out": Path("E"),
        "second": "T",
    }
    weights: dict[str, Any] = {
        "entropy_weight": 2,
        "variation_weight": 3,
        "area_weight": 4,
        "area": (0.1, 0.4),
    }
    sizes: dict[str, Any] = {
        "prototypes": 50,
        "temperature": 0.2,
        "width": 8,
        "steps": 5,
        "batch_size": 6,
    }
    others: dict[str, Any] = {"lr": 0.5, "seed": 7, "checkpoint_steps": 8}
    expected = ExplainConfig(**places, **weights, **sizes, **others)
    assert parse(ExplainConfig, "explain", words.split()) == expected


def test_from_a_backbone_to_a_source(explain: Callable[..., Done], tmp_path: Path) -> None:
    small = ("--prototypes", "4", "--steps", "2", "--batch-size", "5", "--width", "4")
    done = explain("--checkpoint", "run", "--shards", "shards", "--out", "E", *small)
    assert done.code == 0, done.err
    assert f"results    {tmp_path / 'E'} (next: --saliency explain:weights=" in done.out
    about = json.loads((tmp_path / "E" / "explainer.json").read_text())
    assert about["trained"]["fill"] == "high_pass"
    source = parse_saliency_source(f"explain:weights={tmp_path / 'E'}")
    (saliency,) = source([picture(0)[0]])
    assert saliency.shape == (56, 56)
    with pytest.raises(InputError, match="run holds no finished explainer"):
        parse_saliency_source(f"explain:weights={tmp_path / 'run'}").pinned()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--checkpoint nowhere --shards shards",
            "no folder .*nowhere: wanted a run or an exported",
        ),
        ("--checkpoint shards --shards shards", "shards has no backbone.json: wanted the folder"),
        ("--checkpoint run --shards nowhere", "no shards at .*nowhere"),
        ("--checkpoint run --shards shards --second nowhere", "no folder .*nowhere"),
        ("--checkpoint run --shards shards --steps 0", "steps 0 must be 1 or more"),
    ],
)
def test_bad_input_is_one_line(explain: Callable[..., Done], options: str, message: str) -> None:
    done = explain(*options.split(), "--out", "E", "--batch-size", "5")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert re.fullmatch(rf"error: .*{message}.*\n", done.err)
