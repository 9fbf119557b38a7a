from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.core.errors import InputError
from tests.training.evaluate.cases import SIZE, colours_subject, write_folders
from training.evaluate import linear_paper
from training.evaluate.extract import ExtractConfig, Features, features_of
from training.evaluate.labelled import LabelledImages, open_labelled
from training.evaluate.linear_paper import PaperProbeConfig, paper_probe, rate_at
from training.evaluate.training_views import training_batches

CPU = torch.device("cpu")
SUBJECT = colours_subject()


@pytest.fixture
def train(tmp_path: Path) -> LabelledImages:
    return open_labelled(write_folders(tmp_path / "train", 60, seed=0))


@pytest.fixture
def val(tmp_path: Path) -> Features:
    images = open_labelled(write_folders(tmp_path / "val", 30, seed=1))
    config = ExtractConfig(view_size=SIZE, resize=18)
    return features_of(SUBJECT.network, images, config, prepare=SUBJECT.prepare, device=CPU)


def probe(train: LabelledImages, val: Features, config: PaperProbeConfig) -> torch.Tensor:
    return paper_probe(
        SUBJECT.network,
        train,
        val,
        config,
        prepare=SUBJECT.prepare,
        view_size=SIZE,
        device=CPU,
        seed=0,
        num_threads=1,
    )


def test_the_rate_drops_at_60_and_80_of_100() -> None:
    rates = [rate_at(step, 100, 30.0) for step in (0, 59, 60, 79, 80, 99)]
    assert rates == pytest.approx([30, 30, 3, 3, 0.3, 0.3])
    assert rate_at(5, 10, 30.0) == 30.0
    assert rate_at(6, 10, 30.0) == pytest.approx(3.0)


def test_it_learns_on_a_frozen_backbone(
    train: LabelledImages, val: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def counted(*arguments: object, **more: object) -> object:
        sizes.append(more["steps"])  # type: ignore[arg-type]
        return original(*arguments, **more)  # type: ignore[arg-type]

    original = training_batches
    monkeypatch.setattr(linear_paper, "training_batches", counted)
    before = [p.detach().clone() for p in SUBJECT.network.parameters()]
    predicted = probe(train, val, PaperProbeConfig(epochs=10, batch_size=16))
    assert sizes == [38], "10 passes over 60 images in batches of 16"
    assert float((predicted == val[1]).double().mean()) > 0.9
    after = list(SUBJECT.network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    again = probe(train, val, PaperProbeConfig(epochs=10, batch_size=16))
    assert torch.equal(predicted, again)


def test_views_are_prepared_at_training(train: LabelledImages, val: Features) -> None:
    """A backbone that is blind to what is not filtered learns only behind the filter."""
    seen: list[torch.Tensor] = []

    class Watch(nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            seen.append(x_BCHW)
            return x_BCHW.mean(dim=(2, 3))

    paper_probe(
        Watch(),
        train,
        val,
        PaperProbeConfig(epochs=1, batch_size=60),
        prepare=lambda image01: image01 - image01.mean(dim=(2, 3), keepdim=True),
        view_size=SIZE,
        device=CPU,
        seed=0,
        num_threads=1,
    )
    assert float(seen[0].mean(dim=(2, 3)).abs().max()) < 1e-6
    assert float(seen[0].std()) > 0.1


def test_bad_input(train: LabelledImages, val: Features) -> None:
    for settings in ({"epochs": 0}, {"lr": 0.0}, {"momentum": 1.0}):
        with pytest.raises(InputError, match="wanted 1 or more, lr above 0"):
            PaperProbeConfig(**settings)
    with pytest.raises(InputError, match=r"diverged: lower linear-paper\.lr"):
        probe(train, val, PaperProbeConfig(epochs=3, batch_size=8, lr=1e38))
