import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from pipeline.core.errors import InputError
from training.evaluate.linear import (
    STRENGTHS,
    fit_logistic,
    heldout_rows,
    linear_probe,
    predicted_classes,
)

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


def objective(weights: torch.Tensor, x: torch.Tensor, labels: torch.Tensor, l2: float) -> float:
    logits = x @ weights[:, :-1].T + weights[:, -1]
    return float(F.cross_entropy(logits, labels) + l2 / 2 * weights[:, :-1].square().sum())


@pytest.mark.parametrize("strength", [1.0, 1e-1, 1e-3])
def test_equals_scikit_learn_at_the_same_strength(strength: float) -> None:
    x, labels = made(800, seed=0)
    x = ((x - x.mean(0)) / x.std(0, correction=0)).double()
    got = fit_logistic(x, labels, num_classes=NUM_CLASSES, strength=strength, tolerance=1e-7)
    reference = LogisticRegression(C=1 / (strength * len(x)), max_iter=5000, tol=1e-9)
    reference.fit(x.numpy(), labels.numpy())
    expected = torch.from_numpy(np.column_stack([reference.coef_, reference.intercept_]))
    # The gradient is below 1e-7 and the curvature at least `strength`. (The bias has none in its
    # common part: it is compared through the loss.)
    torch.testing.assert_close(got[:, :-1], expected[:, :-1], rtol=0, atol=1e-7 / strength)
    loss, best = (objective(w, x, labels, strength) for w in (got, expected))
    assert loss == pytest.approx(best, abs=1e-8)
    held, held_labels = made(1000, seed=1)
    found, wanted = (
        top1(predicted_classes(w, held.double()), held_labels) for w in (got, expected)
    )
    assert found == pytest.approx(wanted, abs=0.3)


def test_the_probe_equals_scikit_learn_at_its_choice() -> None:
    train, labels = made(800, seed=0)
    val, labels_val = made(1000, seed=1)
    with torch.no_grad():
        found = linear_probe(train, labels, val, labels_val, num_classes=NUM_CLASSES)
    mean, std = train.mean(0), train.std(0, correction=0)
    reference = LogisticRegression(C=1 / (found.strength * len(train)), max_iter=5000, tol=1e-8)
    reference.fit(((train - mean) / std).numpy(), labels.numpy())
    expected = 100 * reference.score(((val - mean) / std).numpy(), labels_val.numpy())
    assert top1(found.predicted_V, labels_val) == pytest.approx(expected, abs=0.3)
    assert 40 < expected < 95, "a case that says nothing"
    assert set(found.heldout_top1) == set(STRENGTHS)
    assert found.heldout_top1[found.strength] == max(found.heldout_top1.values())


def test_scale_shift_dead_features_and_repeats_do_not_matter_but_the_seed_does() -> None:
    train, labels = made(300, seed=0)
    val, labels_val = made(200, seed=1)
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
    x, labels = made(50, seed=0)
    for message, arguments in (
        ("training: some images have no label", (x, labels - 1, x, labels)),
        ("validation: some images have no label", (x, labels, x, labels - 1)),
        (r"validation: got features \[0, 24\]", (x, labels, x[:0], labels[:0])),
        ("got 23 features in validation: wanted 24", (x, labels, x[:, 1:], labels)),
        ("no class with two images", (x[:5], torch.arange(5), x, labels)),
    ):
        with pytest.raises(InputError, match=message):
            linear_probe(*arguments, num_classes=NUM_CLASSES)
