"""What an earlier version wrote (``earlier``) is read and continued with equal results.

``python -m tests.goldens.test_earlier_run`` writes the folder anew. That gives up the proof that
files of earlier versions are read: do it only in a commit that says why they cannot be.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # as in the tests

import json
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path

import pytest
import torch

from pipeline.backbone.folder import load_backbone
from pipeline.precompute.verify import verify_set
from tests.goldens.measure import FOLDER, make_shards, processor_maker, versions
from tests.runs import StopsAfter, run, small_run
from training.config.pretrain import PretrainConfig
from training.config.settings import KnnConfig, OptimConfig
from training.encoders.settings import EncoderConfig
from training.methods.moco.settings import MoCoConfig
from training.record.metrics import read_metrics

EARLIER = FOLDER / "earlier"
SHARDS, STOPPED, FINISHED, BACKBONE = Path("shards"), Path("run"), Path("finished"), "backbone"
MEASURED = "measured.json"
STEPS, STOPPED_AFTER = 12, 7
TOLERANCE = 1e-4
ELSEWHERE_TOLERANCE = 4e-4
"""Of the losses where the processor is not GenuineIntel's, which measured them: steps amplify
rounding, and the twelfth loss of an AMD EPYC is 1.5e-4 off."""


def earlier_config(out: Path) -> PretrainConfig:
    """The run's settings; paths relative to the folder that holds the shards."""
    return small_run(
        SHARDS,
        out,
        encoder=EncoderConfig(architecture="timm:test_efficientnet", stem="standard"),
        method=MoCoConfig(
            queue_size=32,
            temperature=0.2,
            batch_norm_group=4,
            hard_negatives=1,
            object_head="both",
            embedding_dim=16,
        ),
        optim=OptimConfig(lr=0.001),  # a rounding must not grow within the steps
        epochs=2,
        knn=KnnConfig(),
        log_every_steps=1,
    )


def losses(out: Path) -> list[float]:
    """Of every step."""
    return [float(entry["loss"]) for entry in read_metrics(out) if entry["kind"] == "train"]


def features(backbone: Path) -> list[list[float]]:
    """The first eight features of a backbone for three images of fixed numbers: 3 x 8."""
    network, _ = load_backbone(backbone)
    images = torch.linspace(-2, 2, 3 * 3 * 32 * 32).reshape(3, 3, 32, 32).sin()
    with torch.no_grad():
        return network.eval()(images)[:, :8].tolist()  # type: ignore[no-any-return]


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the earlier version's files, which is also the working directory."""
    copy = tmp_path / "earlier"
    shutil.copytree(EARLIER, copy)
    monkeypatch.chdir(copy)
    return copy


def test_the_shards_are_whole(earlier: Path) -> None:
    assert verify_set(earlier / SHARDS) == []


def test_the_run_goes_on_to_the_same_losses(earlier: Path) -> None:
    before = losses(STOPPED)
    assert len(before) == STOPPED_AFTER
    assert run(earlier_config(STOPPED)).finished
    after, measured = losses(STOPPED), json.loads((EARLIER / MEASURED).read_text())
    assert after[:STOPPED_AFTER] == before
    assert len(after) == STEPS
    is_same = processor_maker() == "GenuineIntel"
    tolerance = TOLERANCE if is_same else ELSEWHERE_TOLERANCE
    assert after == pytest.approx(measured["losses"], rel=tolerance)


def test_the_backbone_computes_the_same_features(earlier: Path) -> None:
    measured = json.loads((EARLIER / MEASURED).read_text())
    for found, expected in zip(features(earlier / BACKBONE), measured["features"], strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE, abs=1e-5)


def write() -> None:
    """Replace the folder ``earlier``."""
    shutil.rmtree(EARLIER, ignore_errors=True)
    EARLIER.mkdir()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        make_shards(Path())
        run(earlier_config(FINISHED))
        run(earlier_config(STOPPED), StopsAfter(STOPPED_AFTER))
        figures = {
            "versions": versions(),
            "losses": losses(FINISHED),
            "features": features(FINISHED / BACKBONE),
        }
        ends_before = f"step-{STOPPED_AFTER - 1:08d}"
        large = shutil.ignore_patterns("tensorboard", "contact_sheet.png", ends_before)
        for name in (SHARDS, STOPPED):
            shutil.copytree(name, EARLIER / name, ignore=large)
        shutil.copytree(FINISHED / BACKBONE, EARLIER / BACKBONE)
    (EARLIER / MEASURED).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    write()
