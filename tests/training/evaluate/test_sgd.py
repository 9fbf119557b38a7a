"""The linear probe of the paper, fine-tuning, and the batches that both learn from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.core.errors import InputError
from tests.training.evaluate.cases import Colours, Normed, case_of, folders, left_alone
from training.evaluate import sgd
from training.evaluate.case import Case
from training.evaluate.config import FinetuneConfig, PaperProbeConfig
from training.evaluate.features import Batch
from training.evaluate.labelled import LabelledImages
from training.evaluate.results import Predictions, read_predictions

Sets = tuple[LabelledImages, LabelledImages]
EVERY = np.arange(60)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    root = tmp_path_factory.mktemp("sets")
    return folders(root / "train", 60, seed=0), folders(root / "val", 30, seed=1)


@pytest.fixture
def case(sets: Sets) -> Case:
    return case_of(Colours(), *sets)


@pytest.fixture
def tuned(sets: Sets) -> Case:
    network = Normed()
    network.dropout.p = 0.1
    config = FinetuneConfig(epochs=1, min_steps=40, batch_size=8, batch_norm_group=4)
    return case_of(network, *sets, finetune=config)


def batches(case: Case, chosen: NDArray[np.int64]) -> list[Batch]:
    return list(sgd.training_batches(case, chosen, steps=5, batch_size=4, work="batches"))


def test_every_pass_has_every_chosen_image_once(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    image = case.train.image

    def watched(number: int) -> NDArray[np.uint8]:
        read.append(number)
        return image(number)

    monkeypatch.setattr(case.train, "image", watched)
    chosen = np.array([1, 3, 4, 7, 9])
    batches(case, chosen)
    passes = np.array(read).reshape(4, 5)
    assert all(sorted(one) == chosen.tolist() for one in passes.tolist())
    assert len({tuple(one) for one in passes.tolist()}) > 1, "the passes are shuffled apart"


def test_the_same_views_for_any_number_of_ranks(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batches(case, EVERY)
    assert whole[0][0].shape == (4, 3, 16, 16)
    other = replace(case, config=replace(case.config, seed=1))
    assert not torch.equal(batches(other, EVERY)[0][0], whole[0][0])
    parts = []
    monkeypatch.setattr(sgd, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(sgd, "rank", lambda rank=rank: rank)
        parts.append(batches(case, EVERY))
    for step, both in enumerate(whole):
        for number, expected in enumerate(both):
            assert torch.equal(torch.cat([part[step][number] for part in parts]), expected)
    monkeypatch.setattr(sgd, "world_size", lambda: 3)
    with pytest.raises(InputError, match="batch of 4 cannot be split over 3 ranks"):
        batches(case, EVERY)


def probe(case: Case, **settings: float) -> Predictions:
    config = PaperProbeConfig(**settings)  # type: ignore[arg-type]
    sgd.linear_paper(replace(case, config=replace(case.config, linear_paper=config)))
    return read_predictions(case.config.results)[0]


def test_the_rate_drops_at_60_and_80_of_100() -> None:
    factors = [sgd.rate_factor(step, 100) for step in (0, 59, 60, 79, 80, 99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [sgd.rate_factor(step, 10) for step in (5, 6)] == pytest.approx([1, 0.1])


def test_a_probe_learns_prepared_views_on_a_frozen_backbone(case: Case) -> None:
    views: list[torch.Tensor] = []

    def watched(image01_BCHW: torch.Tensor) -> torch.Tensor:
        if not torch.is_inference_mode_enabled():  # not at test time
            views.append(image01_BCHW)
        return case.encoder.prepare(image01_BCHW)

    asked = replace(case, encoder=replace(case.encoder, prepare=watched))
    with left_alone(case.encoder.network):
        first, again = (probe(asked, epochs=10, batch_size=16) for _ in range(2))
    assert len(views) == 2 * 38, "10 passes over 60 images in batches of 16"
    assert first.result.figure > 90
    assert (first.predicted_DV == again.predicted_DV).all()
    with pytest.raises(InputError, match=r"diverged: lower linear-paper\.lr"):
        probe(case, epochs=3, batch_size=8, lr=1e38)


def test_a_copy_of_the_network_is_tuned(tuned: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[nn.Module] = []
    monkeypatch.setattr(sgd, "average_buffers", whole.append)
    with left_alone(tuned.encoder.network):
        logits = sgd.tuned_logits(tuned, EVERY)
    assert logits.shape == (30, 3)
    labels = torch.from_numpy(tuned.val.labels())
    assert float((logits.argmax(dim=1) == labels).double().mean()) > 0.8
    torch.manual_seed(5)  # nothing hangs on the global generator, and the network draws (dropout)
    assert torch.equal(sgd.tuned_logits(tuned, EVERY), logits)
    before, after = tuned.encoder.network.state_dict(), whole[0].state_dict()
    for name in ("norm.weight", "norm.running_mean"):
        assert not torch.equal(after[f"0.{name}"], before[name])
    monkeypatch.setattr(sgd, "world_size", lambda: 3)
    with pytest.raises(InputError, match=r"batch_size 8 over 3 ranks.*groups of 4"):
        sgd.tuned_logits(tuned, EVERY)


def test_subsets_are_balanced_seeded_and_nested() -> None:
    labels = np.repeat(np.arange(4), [100, 100, 60, 3])
    tenth = sgd.balanced_subset(labels, 0.1, seed=0)
    assert np.bincount(labels[tenth]).tolist() == [7, 7, 7, 3]  # 263 / 10 / 4 = 6.6
    hundredth = sgd.balanced_subset(labels, 0.01, seed=0)
    assert np.bincount(labels[hundredth]).tolist() == [1, 1, 1, 1]
    assert set(hundredth) < set(tenth)
    assert np.array_equal(tenth, sgd.balanced_subset(labels, 0.1, seed=0))
    for other in ({"seed": 1}, {"seed": 0, "draw": 1}):
        subset = sgd.balanced_subset(labels, 0.1, **other)
        assert len(subset) == len(tenth)
        assert not np.array_equal(tenth, subset)
    assert np.array_equal(sgd.balanced_subset(labels, 1.0, seed=0), np.arange(263))
