import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from training.evaluate.knn import knn_predict


def made(num: int, dim: int, num_classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num,), generator=generator)
    centres = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(99))
    features = 0.5 * centres[labels] + torch.randn(num, dim, generator=generator)
    return 3 * features, labels


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
        predicted.append(int(np.bincount(labels.numpy()[nearest], weights=weights).argmax()))
    return predicted


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (150, 0.5)])
def test_equals_brute_force(k: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = made(150, 8, 5, seed=0)
    val, labels_val = made(60, 8, 5, seed=1)
    expected = brute_force(train, labels, val, k, temperature)
    lengths = torch.logspace(-2, 2, 150)[:, None]  # which do not matter
    for limit in (2**26, 2000):  # all at once, and in chunks of 13
        monkeypatch.setattr("training.evaluate.knn.MAX_SIMILARITIES", limit)
        for some, others in ((train, val), (train * lengths, 7 * val)):
            got = knn_predict(some, labels, others, k=k, temperature=temperature, num_classes=5)
            assert got.tolist() == expected
    assert 0.2 < float((got == labels_val).double().mean()) < 1, "a case that says nothing"


def test_weights_matter_and_do_not_overflow() -> None:
    # One near neighbour of class 1 against two far ones of class 0.
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    labels, val = torch.tensor([1, 0, 0]), torch.tensor([[5.0, 0.1]])
    for temperature, expected in ((1e-4, 1), (0.07, 1), (100, 0)):
        found = knn_predict(train, labels, val, k=3, temperature=temperature, num_classes=2)
        assert found.tolist() == [expected]


def test_bad_input() -> None:
    x, labels = torch.ones(4, 2), torch.tensor([0, 1, 1, 0])
    for train, of_train, val, k, message in (
        (x, labels, x, 5, "k = 5: wanted 1 to 4"),
        (x[:0], labels[:0], x, 1, r"features \[0, 2\]"),
        (x, labels[:3], x, 1, r"labels \[3\]"),
        (x, labels, x[:0], 1, r"validation features \[0, 2\]"),
        (x, labels, torch.ones(4, 3), 1, r"validation features \[4, 3\]"),
        (x, labels - 1, x, 1, "no label"),
        (x, labels + 1, x, 1, "from 1 to 2: wanted 0 to 1"),
    ):
        with pytest.raises(InputError, match=message):
            knn_predict(train, of_train, val, k=k, num_classes=2)
