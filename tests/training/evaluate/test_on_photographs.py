"""kNN and the fast probe on features of 1,200 photographs, against plain references."""

from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.images.preprocessing import Preprocessing
from tests.training.evaluate.cases import extractor_of
from tests.training.evaluate.test_knn import brute_force
from training.encoders.encoder import build_backbone
from training.encoders.settings import EncoderConfig
from training.evaluate.knn import knn_predict
from training.evaluate.labelled import open_labelled
from training.evaluate.linear import linear_probe
from training.evaluate.untrained import calibrate

NUM_CLASSES = 10


def test_a_random_network_on_photographs(shared_data: Path) -> None:
    torch.manual_seed(0)
    network = build_backbone(EncoderConfig(architecture="resnet18", stem="small"))
    extractor = extractor_of(network, Preprocessing(view_size=32, resize=37), num_threads=2)
    images = open_labelled(shared_data / "imagenette160" / "val")
    calibrate(extractor, images)
    x, y = extractor.features(images)
    assert x.shape == (1200, 512)
    for k, temperature in ((1, 0.07), (200, 0.5)):
        got = knn_predict(x, y, x, k=k, temperature=temperature, num_classes=NUM_CLASSES)
        assert got.tolist() == brute_force(x, y, x, k, temperature)

    val = torch.arange(1200) % 3 == 0
    found = linear_probe(x[~val], y[~val], x[val], y[val], num_classes=NUM_CLASSES)
    mean, std = x[~val].mean(0), x[~val].std(0, correction=0).clamp_min(1e-6)
    unit = ((x - mean) / std).numpy()
    reference = LogisticRegression(C=1 / (found.strength * 800), max_iter=5000, tol=1e-6)
    reference.fit(unit[~val], y[~val].numpy())
    top1 = 100 * float((found.predicted_V == y[val]).double().mean())
    expected = 100 * reference.score(unit[val], y[val].numpy())
    assert top1 == pytest.approx(expected, abs=0.3)  # one image of 400 is 0.25 points
    assert 20 < top1 < 90, "a case that says nothing"
