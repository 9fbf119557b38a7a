"""The held-out loss: against a loop by hand, its closed form, and what it leaves alone."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.core.errors import InputError
from tests.runs import small_run
from tests.shard_sets import write_shard_set
from tests.training.evaluate.cases import CPU, Normed, left_alone
from training.config.settings import HeldoutConfig
from training.evaluate.heldout import bank_loss, check_heldout, heldout_loss
from training.views.fills import fill_named


class Encoder(Normed):
    """Unit rows."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(super().forward(x_BCHW), dim=1)


def measure(encoder: nn.Module, config: HeldoutConfig) -> float:
    run = small_run(Path("shards"), Path("out"), heldout=config)
    return heldout_loss(encoder, run, fill=fill_named("mean"), device=CPU)


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
    assert bank_loss(pairs, config) == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_it_is_the_same_every_time_and_leaves_the_network_as_it_is(shards: Path) -> None:
    encoder = Encoder().train()
    encoder.dropout.eval()
    config = HeldoutConfig(shards=shards, bank_size=8)
    with left_alone(encoder):
        first = measure(encoder, config)
    torch.manual_seed(5)
    assert measure(encoder, config) == first
    assert measure(encoder, replace(config, temperature=0.5)) != first


def test_a_network_that_sees_nothing_has_the_loss_of_a_guess(shards: Path) -> None:
    class Same(nn.Module):
        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            return torch.eye(3)[:1].expand(len(images_BCHW), 3)

    # 20 images: never more than half of them make the bank.
    for bank_size, choices in ((8, 9), (1000, 11)):
        config = HeldoutConfig(shards=shards, bank_size=bank_size)
        assert measure(Same(), config) == pytest.approx(math.log(choices))


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
