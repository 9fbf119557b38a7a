"""kNN and the fast probe against plain references, on made features and on photographs."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocessing
from tests.training.evaluate.cases import extractor_of
from training.encoders.encoder import build_backbone
from training.encoders.settings import EncoderConfig
from training.evaluate.encoders import calibrate
from training.evaluate.frozen import (
    STRENGTHS,
    fit_logistic,
    heldout_rows,
    knn_predict,
    linear_probe,
    predicted_classes,
)
from training.evaluate.labelled import open_labelled

NUM_CLASSES, DIM = 5, 24


def made(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes with correlated features of very different spread."""
    shared = torch.Generator().manual_seed(99)
    mixing = torch.randn(DIM, DIM, generator=shared) * torch.logspace(0, -1.5, DIM)[:, None]
    centres = 0.6 * torch.randn(NUM_CLASSES, DIM, generator=shared)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (num,), generator=generator)
    noise = torch.randn(num, DIM, generator=generator)
    return 10 * (centres[labels] + noise) @ mixing + 3, labels


def top1(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * float((predicted == labels).double().mean())


def nearest(
    train: torch.Tensor, labels: torch.Tensor, val: torch.Tensor, k: int, tau: float
) -> list[int]:
    """The definition, one image at a time, in numpy and float64."""
    unit_train, unit_val = (F.normalize(x.double(), dim=1).numpy() for x in (train, val))
    predicted = []
    for one in unit_val:
        cosines = unit_train @ one
        rows = np.argsort(-cosines, kind="stable")[:k]
        weights = np.exp((cosines[rows] - cosines[rows[0]]) / tau)
        predicted.append(int(np.bincount(labels.numpy()[rows], weights=weights).argmax()))
    return predicted


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (150, 0.5)])
def test_neighbours_equal_brute_force(
    k: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    (train, labels), (val, labels_val) = made(150, seed=0), made(60, seed=1)
    expected = nearest(train, labels, val, k, temperature)
    lengths = torch.logspace(-2, 2, 150)[:, None]  # which do not matter
    for limit in (2**26, 2000):  # all at once, and in chunks of 13
        monkeypatch.setattr("training.evaluate.frozen.MAX_SIMILARITIES", limit)
        for some, others in ((train, val), (train * lengths, 7 * val)):
            got = knn_predict(some, labels, others, k=k, temperature=temperature, num_classes=5)
            assert got.tolist() == expected
    assert 20 < top1(got, labels_val) < 100, "a case that says nothing"


def test_weights_matter_and_do_not_overflow() -> None:
    # One near neighbour of class 1 against two far ones of class 0.
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    labels, val = torch.tensor([1, 0, 0]), torch.tensor([[5.0, 0.1]])
    for temperature, expected in ((1e-4, 1), (0.07, 1), (100, 0)):
        found = knn_predict(train, labels, val, k=3, temperature=temperature, num_classes=2)
        assert found.tolist() == [expected]


@pytest.mark.parametrize("strength", [1.0, 1e-1, 1e-3])
def test_a_fit_equals_scikit_learn_at_the_same_strength(strength: float) -> None:
    x, labels = made(800, seed=0)
    x = ((x - x.mean(0)) / x.std(0, correction=0)).double()
    got = fit_logistic(x, labels, num_classes=NUM_CLASSES, strength=strength, tolerance=1e-7)
    reference = LogisticRegression(C=1 / (strength * len(x)), max_iter=5000, tol=1e-9)
    reference.fit(x.numpy(), labels.numpy())
    expected = torch.from_numpy(np.column_stack([reference.coef_, reference.intercept_]))
    # The gradient is below 1e-7 and the curvature at least `strength`. (The bias has none in its
    # common part: it is compared through the loss and the classes.)
    torch.testing.assert_close(got[:, :-1], expected[:, :-1], rtol=0, atol=1e-7 / strength)
    losses = [
        float(F.cross_entropy(x @ weights[:, :-1].T + weights[:, -1], labels))
        + strength / 2 * float(weights[:, :-1].square().sum())
        for weights in (got, expected)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-8)
    assert torch.equal(predicted_classes(got, x), predicted_classes(expected, x))


def check_probe(
    train: torch.Tensor, labels: torch.Tensor, val: torch.Tensor, labels_val: torch.Tensor
) -> None:
    """Hold the probe to scikit-learn's regression of the strength that it chose."""
    num_classes = int(labels.max()) + 1
    with torch.no_grad():
        found = linear_probe(train, labels, val, labels_val, num_classes=num_classes)
    mean, std = train.mean(0), train.std(0, correction=0).clamp_min(1e-6)
    reference = LogisticRegression(C=1 / (found.strength * len(train)), max_iter=5000, tol=1e-6)
    reference.fit(((train - mean) / std).numpy(), labels.numpy())
    expected = 100 * reference.score(((val - mean) / std).numpy(), labels_val.numpy())
    assert top1(found.predicted_V, labels_val) == pytest.approx(expected, abs=0.3)
    assert 20 < expected < 95, "a case that says nothing"
    assert set(found.heldout_top1) == set(STRENGTHS)
    assert found.heldout_top1[found.strength] == max(found.heldout_top1.values())


def test_the_probe_equals_scikit_learn_at_its_choice() -> None:
    check_probe(*made(800, seed=0), *made(1000, seed=1))


def test_both_on_photographs(shared_data: Path) -> None:
    torch.manual_seed(0)
    network = build_backbone(EncoderConfig(architecture="resnet18", stem="small"))
    extractor = extractor_of(network, Preprocessing(view_size=32, resize=37), num_threads=2)
    images = open_labelled(shared_data / "imagenette160" / "val")
    calibrate(extractor, images)
    x, y = extractor.features(images)
    assert x.shape == (1200, 512)
    for k, temperature in ((1, 0.07), (200, 0.5)):
        got = knn_predict(x, y, x, k=k, temperature=temperature, num_classes=10)
        assert got.tolist() == nearest(x, y, x, k, temperature)
    val = torch.arange(1200) % 3 == 0
    check_probe(x[~val], y[~val], x[val], y[val])  # one image of 400 is 0.25 points


def test_scale_shift_dead_features_and_repeats_do_not_matter_but_the_seed_does() -> None:
    (train, labels), (val, labels_val) = made(300, seed=0), made(200, seed=1)
    first, again, other = (
        linear_probe(train, labels, val, labels_val, num_classes=NUM_CLASSES, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.predicted_V, again.predicted_V)
    assert first.heldout_top1 == again.heldout_top1 != other.heldout_top1
    scale = torch.logspace(-2, 2, DIM)
    moved, moved_val = (torch.cat([x * scale - 4, torch.ones(len(x), 1)], 1) for x in (train, val))
    found = linear_probe(moved, labels, moved_val, labels_val, num_classes=NUM_CLASSES)
    assert found.strength == first.strength
    # Rounding: one image of 200.
    assert int((found.predicted_V != first.predicted_V).sum()) <= 1


def test_heldout_is_balanced() -> None:
    labels = np.repeat(np.arange(4), [100, 50, 3, 1])
    marked = heldout_rows(labels, seed=0)
    assert [int(marked[labels == c].sum()) for c in range(4)] == [20, 10, 1, 0]
    assert np.array_equal(marked, heldout_rows(labels, seed=0))
    assert not np.array_equal(marked, heldout_rows(labels, seed=1))


def test_bad_input() -> None:
    x, y = torch.ones(4, 2), torch.tensor([0, 1, 1, 0])
    for train, labels, val, k, message in (
        (x, y, x, 5, "k = 5: wanted 1 to 4"),
        (x[:0], y[:0], x, 1, r"features \[0, 2\]"),
        (x, y[:3], x, 1, r"labels \[3\]"),
        (x, y, x[:0], 1, r"validation features \[0, 2\]"),
        (x, y, torch.ones(4, 3), 1, r"validation features \[4, 3\]"),
        (x, y - 1, x, 1, "no label"),
        (x, y + 1, x, 1, "from 1 to 2: wanted 0 to 1"),
    ):
        with pytest.raises(InputError, match=message):
            knn_predict(train, labels, val, k=k, num_classes=2)
    for message, arguments in (
        ("training: some images have no label", (x, y - 1, x, y)),
        ("validation: some images have no label", (x, y, x, y - 1)),
        (r"validation: got features \[0, 2\]", (x, y, x[:0], y[:0])),
        ("got 1 features in validation: wanted 2", (x, y, x[:, 1:], y)),
        ("no class with two images", (x[:2], y[:2], x, y)),
    ):
        with pytest.raises(InputError, match=message):
            linear_probe(*arguments, num_classes=2)
