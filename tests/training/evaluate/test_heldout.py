"""The held-out loss: against a loop by hand, its closed form, and what it leaves alone."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.core.errors import InputError
from tests.shard_sets import write_shard_set
from training.config.settings import HeldoutConfig
from training.evaluate.heldout import _loss, check_heldout, heldout_loss
from training.views.fills import fill_named
from training.views.settings import ViewConfig

VIEWS = ViewConfig(size=32, grid=4)


class Encoder(nn.Module):
    """Mean colours through a batch norm: unit rows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.frozen = nn.Dropout().eval()

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.norm(images_BCHW.mean(dim=(2, 3)))
        return nn.functional.normalize(rows, dim=1)


def measure(encoder: nn.Module, config: HeldoutConfig) -> float:
    return heldout_loss(
        encoder,
        config,
        views=VIEWS,
        fill=fill_named("mean"),
        device=torch.device("cpu"),
        on_damaged="raise",
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("heldout")
    write_shard_set(root, num_images=20, labels=False)
    return root


def test_the_loss_is_that_of_each_query_against_its_key_and_the_bank() -> None:
    pairs = nn.functional.normalize(torch.randn(7, 2, 5, generator=torch.manual_seed(0)), dim=2)
    config = HeldoutConfig(bank_size=3, temperature=0.2)
    losses = []
    for query, key in pairs[3:]:
        positive = math.exp(float(query @ key) / 0.2)
        bank = sum(math.exp(float(query @ pairs[k, 1]) / 0.2) for k in range(3))
        losses.append(-math.log(positive / (positive + bank)))
    assert _loss(pairs, config) == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_embeddings_without_order_give_the_logarithm_of_the_choices() -> None:
    same = torch.zeros(8, 2, 4)
    same[..., 0] = 1
    assert _loss(same, HeldoutConfig(bank_size=3)) == pytest.approx(math.log(4), rel=1e-5)
    # never more than half of the images
    assert _loss(same, HeldoutConfig(bank_size=1000)) == pytest.approx(math.log(5), rel=1e-5)


def test_it_is_the_same_every_time_and_leaves_the_network_as_it_is(shards: Path) -> None:
    encoder = Encoder().train()
    encoder.frozen.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    config = HeldoutConfig(shards=shards, bank_size=8)
    first = measure(encoder, config)
    torch.manual_seed(5)
    assert measure(encoder, config) == first
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training
    assert encoder.norm.training
    assert not encoder.frozen.training
    assert measure(encoder, replace(config, temperature=0.5)) != first


def test_a_network_that_sees_nothing_has_the_loss_of_a_guess(shards: Path) -> None:
    class Same(nn.Module):
        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            return torch.eye(3)[:1].expand(len(images_BCHW), 3)

    config = HeldoutConfig(shards=shards, bank_size=8)
    assert measure(Same(), config) == pytest.approx(math.log(9))


def test_shards_that_cannot_be_held_out_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shares 20 images \(.*00.jpg, .*, \.\.\.\) with"):
        check_heldout(shards, HeldoutConfig(shards=shards))
    write_shard_set(tmp_path / "overlap", num_images=6, first_number=18)
    with pytest.raises(InputError, match=r"shares 2 images \(.*18.jpg, .*19.jpg\) with the"):
        check_heldout(shards, HeldoutConfig(shards=tmp_path / "overlap"))
    write_shard_set(tmp_path / "apart", num_images=6, first_number=20)
    assert check_heldout(shards, HeldoutConfig(shards=tmp_path / "apart")).num_images == 6
    write_shard_set(tmp_path / "few", num_images=3, first_number=500)
    with pytest.raises(InputError, match="holds 3 images: wanted at least 4"):
        check_heldout(shards, HeldoutConfig(shards=tmp_path / "few"))
    with pytest.raises(InputError, match="no shards at"):
        check_heldout(shards, HeldoutConfig(shards=tmp_path / "none"))


@pytest.mark.parametrize("wrong", [{"bank_size": 0}, {"temperature": 0.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"heldout\.bank_size"):
        HeldoutConfig(**wrong)  # type: ignore[arg-type]
