from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.core.errors import InputError
from tests.training.evaluate.cases import Colours, case_of, folders, left_alone
from training.evaluate import linear_paper as module
from training.evaluate.case import Case
from training.evaluate.config import PaperProbeConfig
from training.evaluate.linear_paper import linear_paper, rate_factor
from training.evaluate.sgd import training_batches


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("sets")
    return case_of(Colours(), folders(root / "train", 60, 0), folders(root / "val", 30, 1))


def probe(case: Case, **settings: float) -> Case:
    """The case after the protocol, with settings of it."""
    config = replace(case.config, linear_paper=PaperProbeConfig(**settings))  # type: ignore[arg-type]
    made = replace(case, config=config)
    linear_paper(made)
    return made


def test_the_rate_drops_at_60_and_80_of_100() -> None:
    factors = [rate_factor(step, 100) for step in (0, 59, 60, 79, 80, 99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [rate_factor(step, 10) for step in (5, 6)] == pytest.approx([1, 0.1])


def test_it_learns_on_a_frozen_backbone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[object] = []

    def counted(*arguments: object, **more: object) -> object:
        sizes.append(more["steps"])
        return training_batches(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "training_batches", counted)
    with left_alone(case.extractor.network):
        first, again = (probe(case, epochs=10, batch_size=16).predictions[0] for _ in range(2))
    assert sizes == [38, 38], "10 passes over 60 images in batches of 16"
    assert first.result.figure > 90
    assert (first.predicted_DV == again.predicted_DV).all()


def test_views_are_prepared_at_training(case: Case) -> None:
    seen: list[torch.Tensor] = []

    class Watch(nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            if not torch.is_inference_mode_enabled():  # not at test time
                seen.append(x_BCHW)
            return x_BCHW.mean(dim=(2, 3))

    extractor = replace(
        case.extractor,
        network=Watch(),
        prepare=lambda image01: image01 - image01.mean(dim=(2, 3), keepdim=True),
    )
    probe(
        replace(case, encoder=replace(case.encoder, extractor=extractor)), epochs=1, batch_size=60
    )
    (views,) = seen
    assert float(views.mean(dim=(2, 3)).abs().max()) < 1e-6
    assert float(views.std()) > 0.1


def test_a_rate_that_is_too_high_is_said(case: Case) -> None:
    with pytest.raises(InputError, match=r"diverged: lower linear-paper\.lr"):
        probe(case, epochs=3, batch_size=8, lr=1e38)
