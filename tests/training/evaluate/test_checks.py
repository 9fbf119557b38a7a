"""What a run measures of its encoder, beside the same by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.runs import small_run
from tests.shard_sets import write_shard_set
from tests.training.evaluate.cases import CPU, left_alone
from training.config.settings import HeldoutConfig
from training.encoders.encoder import build_backbone
from training.evaluate.checks import run_checks
from training.evaluate.features import FeatureExtractor
from training.evaluate.knn import knn_predict
from training.evaluate.labelled import open_labelled
from training.methods.registry import find_method
from training.views.fills import fill_named

FILL = fill_named("high_pass")


def test_the_figures_that_a_run_asks_for(tmp_path: Path) -> None:
    for name, first in (("train", 0), ("val", 100), ("held", 200)):
        write_shard_set(tmp_path / name, num_images=12, first_number=first)
    config = small_run(
        tmp_path / "train", tmp_path / "out", heldout=HeldoutConfig(shards=tmp_path / "held")
    )
    torch.manual_seed(0)
    method = find_method(config.method.name)(
        config.method, build_backbone(config.encoder), batch_size=8, seed=0
    )

    def checked(step: int) -> dict[str, float]:
        return run_checks(config, method, fill=FILL, device=CPU, autocast=None, step=step)

    with left_alone(method):
        first, later = checked(0), checked(1)
    assert first.keys() == later.keys() > {"knn", "knn_images", "heldout_loss", "checked_images"}
    assert first["heldout_loss"] != later["heldout_loss"], "random weights are calibrated"
    extractor = FeatureExtractor(
        network=method.embedder.backbone, prepare=FILL.prepare, device=CPU, view_size=32
    )
    train, val = (open_labelled(tmp_path / name) for name in ("train", "val"))
    features, labels = extractor.features(val)
    predicted = knn_predict(*extractor.features(train), features, num_classes=3, k=5)
    expected = 100 * float((predicted == labels).double().mean())
    assert (later["knn"], later["knn_images"]) == (pytest.approx(expected), 12)
    config = replace(config, heldout=HeldoutConfig(), knn=replace(config.knn, val_shards=None))
    assert not checked(1).keys() & {"knn", "knn_images", "heldout_loss"}
