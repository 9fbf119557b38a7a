from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.errors import InputError
from tests.training.evaluate.cases import SIZE, colours_subject, write_folders
from training.evaluate.extract import ExtractConfig, features_of
from training.evaluate.finetune import FinetuneConfig, balanced_subset, finetuned
from training.evaluate.labelled import LabelledImages, open_labelled

CPU = torch.device("cpu")
SUBJECT = colours_subject()
SHORT = FinetuneConfig(epochs=1, min_steps=40, batch_size=8, batch_norm_group=4)


class Small(nn.Module):
    """Something with batch norm that can be tuned."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.layers(x_BCHW).mean(dim=(2, 3))
        return pooled


@pytest.fixture
def train(tmp_path: Path) -> LabelledImages:
    return open_labelled(write_folders(tmp_path / "train", 60, seed=0))


def tune(train: LabelledImages, network: nn.Module, config: FinetuneConfig) -> nn.Module:
    return finetuned(
        network,
        4,
        train,
        np.arange(60),
        config,
        prepare=SUBJECT.prepare,
        view_size=SIZE,
        device=CPU,
        seed=0,
        num_threads=1,
    )


def test_the_whole_network_is_trained_and_the_original_kept(
    train: LabelledImages, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = Small().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    tuned = tune(train, network, SHORT)
    assert not tuned.training
    assert all(torch.equal(value, before[n]) for n, value in network.state_dict().items())
    changed = tuned.state_dict()
    for name in ("layers.0.weight", "layers.1.weight", "layers.1.running_mean"):
        assert not torch.equal(changed[f"0.{name}"], before[name])

    images = open_labelled(write_folders(tmp_path / "val", 30, seed=1))
    config = ExtractConfig(view_size=SIZE, resize=18)
    logits, labels = features_of(tuned, images, config, prepare=SUBJECT.prepare, device=CPU)
    assert logits.shape == (30, 3)
    assert float((logits.argmax(dim=1) == labels).double().mean()) > 0.8

    torch.manual_seed(5)  # nothing hangs on the global generator
    again = tune(train, network, SHORT).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in changed.items())


def test_subsets_are_balanced_seeded_and_nested() -> None:
    labels = np.repeat(np.arange(4), [100, 100, 60, 3])
    tenth = balanced_subset(labels, 0.1, seed=0)
    assert np.bincount(labels[tenth]).tolist() == [7, 7, 7, 3]  # 263 / 10 / 4 = 6.6
    hundredth = balanced_subset(labels, 0.01, seed=0)
    assert np.bincount(labels[hundredth]).tolist() == [1, 1, 1, 1]
    assert set(hundredth) < set(tenth)
    assert np.array_equal(tenth, balanced_subset(labels, 0.1, seed=0))
    assert not np.array_equal(tenth, balanced_subset(labels, 0.1, seed=1))
    other = balanced_subset(labels, 0.1, seed=0, draw=1)
    assert len(other) == len(tenth)
    assert not np.array_equal(tenth, other)
    assert np.array_equal(balanced_subset(labels, 1.0, seed=0), np.arange(263))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": (0.1, 1.5)}, "in .0, 1."),
        ({"shares": ()}, "in .0, 1."),
        ({"min_steps": 0}, "1 or more"),
        ({"draws": 0}, "draws 0.*1 or more"),
        ({"lr": 0.0}, "rates above 0"),
        ({"batch_size": 30}, "16 does not divide the batch of 30"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FinetuneConfig(**settings)  # type: ignore[arg-type]


def test_ranks_that_tear_groups_apart(
    train: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluate.finetune.world_size", lambda: 3)
    with pytest.raises(InputError, match=r"batch_size 8 over 3 ranks.*groups of 4"):
        tune(train, Small(), SHORT)
