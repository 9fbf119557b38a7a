from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from tests.training.evaluate.cases import Normed, case_of, folders, left_alone
from training.evaluate.case import Case
from training.evaluate.config import FinetuneConfig
from training.evaluate.finetune import balanced_subset, tuned_logits

EVERY = np.arange(60)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    config = FinetuneConfig(epochs=1, min_steps=40, batch_size=8, batch_norm_group=4)
    train, val = folders(tmp_path / "train", 60, seed=0), folders(tmp_path / "val", 30, seed=1)
    network = Normed()
    network.dropout.p = 0.1
    return case_of(network, train, val, finetune=config)


def test_a_copy_of_the_network_is_trained(case: Case) -> None:
    with left_alone(case.extractor.network):
        logits = tuned_logits(case, EVERY)
    assert logits.shape == (30, 3)
    labels = torch.from_numpy(case.val.labels())
    assert float((logits.argmax(dim=1) == labels).double().mean()) > 0.8
    torch.manual_seed(5)  # nothing hangs on the global generator, and the network draws (dropout)
    assert torch.equal(tuned_logits(case, EVERY), logits)


def test_the_network_itself_is_tuned(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[torch.nn.Module] = []
    monkeypatch.setattr("training.evaluate.finetune.average_buffers", whole.append)
    tuned_logits(case, EVERY)
    before, after = case.extractor.network.state_dict(), whole[0].state_dict()
    for name in ("norm.weight", "norm.running_mean"):
        assert not torch.equal(after[f"0.{name}"], before[name])


def test_subsets_are_balanced_seeded_and_nested() -> None:
    labels = np.repeat(np.arange(4), [100, 100, 60, 3])
    tenth = balanced_subset(labels, 0.1, seed=0)
    assert np.bincount(labels[tenth]).tolist() == [7, 7, 7, 3]  # 263 / 10 / 4 = 6.6
    hundredth = balanced_subset(labels, 0.01, seed=0)
    assert np.bincount(labels[hundredth]).tolist() == [1, 1, 1, 1]
    assert set(hundredth) < set(tenth)
    assert np.array_equal(tenth, balanced_subset(labels, 0.1, seed=0))
    for other in ({"seed": 1}, {"seed": 0, "draw": 1}):
        subset = balanced_subset(labels, 0.1, **other)
        assert len(subset) == len(tenth)
        assert not np.array_equal(tenth, subset)
    assert np.array_equal(balanced_subset(labels, 1.0, seed=0), np.arange(263))


def test_ranks_that_tear_groups_apart(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluate.finetune.world_size", lambda: 3)
    with pytest.raises(InputError, match=r"batch_size 8 over 3 ranks.*groups of 4"):
        tuned_logits(case, EVERY)
