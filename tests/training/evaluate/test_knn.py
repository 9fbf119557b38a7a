import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from training.evaluate.knn import knn_accuracy, knn_predict


def made(num: int, dim: int, num_classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num,), generator=generator)
    centres = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(99))
    features = 0.5 * centres[labels] + torch.randn(num, dim, generator=generator)
    return 3 * features, labels


def brute_force(
    train: torch.Tensor, labels: torch.Tensor, val: torch.Tensor, k: int, tau: float, classes: int
) -> list[int]:
    """The definition, one image and one neighbour at a time, in float64."""
    predicted = []
    for v in val.double().numpy():
        cosines = [
            float(v @ t / np.linalg.norm(v) / np.linalg.norm(t)) for t in train.double().numpy()
        ]
        votes = np.zeros(classes)
        for i in sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]:
            votes[int(labels[i])] += np.exp(cosines[i] / tau)
        predicted.append(int(votes.argmax()))
    return predicted


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (150, 0.5)])
def test_equals_brute_force(k: int, temperature: float) -> None:
    train, labels = made(150, 8, 5, seed=0)
    val, labels_val = made(60, 8, 5, seed=1)
    got = knn_predict(train, labels, val, k=k, temperature=temperature, num_classes=5)
    expected = brute_force(train, labels, val, k, temperature, 5)
    assert got.tolist() == expected
    accuracy = knn_accuracy(
        train, labels, val, labels_val, k=k, temperature=temperature, num_classes=5
    )
    assert accuracy == pytest.approx(100 * np.mean(np.array(expected) == labels_val.numpy()))
    assert 20 < accuracy < 100, "a case that says nothing"


def test_weights_matter() -> None:
    # One near neighbour of class 1 against two far ones of class 0.
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    labels = torch.tensor([1, 0, 0])
    val = torch.tensor([[5.0, 0.1]])
    assert knn_predict(train, labels, val, k=3, temperature=0.07, num_classes=2).tolist() == [1]
    assert knn_predict(train, labels, val, k=3, temperature=100, num_classes=2).tolist() == [0]


def test_low_temperatures_do_not_overflow() -> None:
    train, labels = made(50, 4, 3, seed=0)
    got = knn_predict(train, labels, train, k=5, temperature=1e-4, num_classes=3)
    assert torch.equal(got, labels), "the nearest neighbour is the image itself"


def test_chunks_change_nothing() -> None:
    train, labels = made(100, 8, 5, seed=0)
    val, _ = made(37, 8, 5, seed=1)
    whole = knn_predict(train, labels, val, num_classes=5)
    for limit in (1, 250, 1000):
        chunked = knn_predict(train, labels, val, num_classes=5, max_similarities=limit)
        assert torch.equal(chunked, whole)


def test_length_of_features_does_not_matter() -> None:
    train, labels = made(100, 8, 5, seed=0)
    val, _ = made(37, 8, 5, seed=1)
    lengths = torch.logspace(-2, 2, 100)[:, None]
    whole = knn_predict(train, labels, val, num_classes=5)
    assert torch.equal(knn_predict(train * lengths, labels, 7 * val, num_classes=5), whole)


ONES, LABELS = torch.ones(4, 2), torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("train", "labels", "val", "arguments", "message"),
    [
        (ONES, LABELS, ONES, {"k": 5}, "k = 5: wanted 1 to 4"),
        (ONES, LABELS, ONES, {"k": 0}, "k = 0"),
        (ONES, LABELS, ONES, {"k": 1, "temperature": 0.0}, "temperature 0"),
        (ONES[:0], LABELS[:0], ONES, {"k": 1}, r"features \[0, 2\]"),
        (ONES, LABELS[:3], ONES, {"k": 1}, r"labels \[3\]"),
        (ONES, LABELS, ONES[:0], {"k": 1}, r"validation features \[0, 2\]"),
        (ONES, LABELS, torch.ones(4, 3), {"k": 1}, r"validation features \[4, 3\]"),
        (ONES, LABELS - 1, ONES, {"k": 1}, "no label"),
        (ONES, LABELS + 1, ONES, {"k": 1}, "from 1 to 2: wanted 0 to 1"),
    ],
)
def test_bad_input(
    train: torch.Tensor,
    labels: torch.Tensor,
    val: torch.Tensor,
    arguments: dict[str, float],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        knn_predict(train, labels, val, num_classes=2, **arguments)  # type: ignore[arg-type]


def test_unlabelled_validation() -> None:
    with pytest.raises(InputError, match="validation: some images have no label"):
        knn_accuracy(ONES, LABELS, ONES, torch.full((4,), -1), k=1, num_classes=2)
