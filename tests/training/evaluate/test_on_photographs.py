"""kNN and the fast probe on features of 1,200 photographs, against plain references."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.images.preprocessing import Preprocess, Preprocessing
from training.encoders.encoder import build_backbone
from training.encoders.settings import EncoderConfig
from training.evaluate.extract import ExtractConfig, Features, features_of
from training.evaluate.knn import knn_predict
from training.evaluate.labelled import open_labelled
from training.evaluate.linear import linear_probe

CPU = torch.device("cpu")
NUM_CLASSES = 10
SIZE = 32


@pytest.fixture(scope="module")
def features(shared_data: Path) -> Features:
    """Of the validation photographs of imagenette, by a network with random weights."""
    torch.manual_seed(0)
    network = build_backbone(EncoderConfig(architecture="resnet18", stem="small"))
    config = ExtractConfig(view_size=SIZE, batch_size=128)
    prepare = Preprocess(Preprocessing(view_size=SIZE, resize=37)).prepare
    images = open_labelled(shared_data / "imagenette160" / "val")
    with torch.no_grad():  # statistics of such images, as training would leave them
        for views, _ in config.batches(images, range(0, 1200, 10)):
            network.train()(prepare(views.float() / 255))
    found = features_of(network, images, config, prepare=prepare, device=CPU)
    assert found[0].shape == (1200, 512)
    return found


def brute_force(
    train: torch.Tensor, labels: torch.Tensor, val: torch.Tensor, k: int, tau: float
) -> list[int]:
    """The definition, one image at a time, in numpy and float64."""
    unit_train, unit_val = (
        x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=1, keepdims=True)
        for x in (train, val)
    )
    predicted = []
    for one in unit_val:
        cosines = unit_train @ one
        nearest = np.argsort(-cosines, kind="stable")[:k]
        weights = np.exp((cosines[nearest] - cosines[nearest[0]]) / tau)
        votes = np.bincount(labels.numpy()[nearest], weights=weights, minlength=NUM_CLASSES)
        predicted.append(int(votes.argmax()))
    return predicted


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (200, 0.5)])
def test_knn_equals_brute_force_exactly(features: Features, k: int, temperature: float) -> None:
    everything, labels = features
    # All 1,200 are classified, by all 1,200: at k 1 each finds itself.
    got = knn_predict(
        everything, labels, everything, k=k, temperature=temperature, num_classes=NUM_CLASSES
    )
    assert got.tolist() == brute_force(everything, labels, everything, k, temperature)
    if k == 1:
        assert torch.equal(got, labels)


def test_the_fast_probe_agrees_with_scikit_learn(features: Features) -> None:
    """Within 0.3 points on the same features and the same choice of L2."""
    everything, labels = features
    train, val = np.arange(1200) % 3 > 0, np.arange(1200) % 3 == 0
    x, y, x_val, y_val = everything[train], labels[train], everything[val], labels[val]
    found = linear_probe(x, y, x_val, y_val, num_classes=NUM_CLASSES)
    mean, std = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    reference = LogisticRegression(C=1 / (found.strength * len(x)), max_iter=5000, tol=1e-6)
    reference.fit(((x - mean) / std).numpy(), y.numpy())
    expected = 100 * reference.score(((x_val - mean) / std).numpy(), y_val.numpy())
    assert found.top1 == pytest.approx(expected, abs=0.3)
    assert 20 < found.top1 < 90, "a case that says nothing"
