"""SimCLR against a step written by hand, and many ranks against one process."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.errors import InputError
from tests.training.methods.small import (
    BATCH,
    GROUP,
    MOMENT,
    STEP,
    Scenario,
    as_inputs,
    assert_ranks_are_one_process,
    make_images,
    small_backbone,
    step_of,
    weighted,
)
from training.core.distributed import batch_permutation
from training.core.schedules import Moment
from training.methods.losses import nt_xent
from training.methods.simclr.method import HARD_NEGATIVE_PASS, VIEW_2_PASS, SimCLR
from training.methods.simclr.settings import SimCLRConfig

RHO = 1.5
CONFIG = SimCLRConfig(embedding_dim=6, temperature=0.3, rho=RHO, batch_norm_group=GROUP)


def make_method(config: SimCLRConfig = CONFIG) -> SimCLR:
    return SimCLR(config, small_backbone(), batch_size=BATCH, seed=1).double()


def in_groups(encoder: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([encoder(group) for group in images.split(GROUP)])


def shuffled_in_groups(encoder: nn.Module, images: Tensor, branch: int) -> Tensor:
    """By hand: shuffle, encode group by group, put back."""
    order = batch_permutation(BATCH, seed=1, step=STEP, branch=branch)
    encoded = in_groups(encoder, images[order])
    return encoded[torch.argsort(order)]


@pytest.mark.parametrize("negatives", [0, 1, 2])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_step_is_what_is_written(negatives: int, gradient: bool) -> None:
    method, reference = make_method(replace(CONFIG, negative_gradient=gradient)), make_method()
    one, other, *cut = make_images(2 + 2 * negatives)
    of_key, of_query = tuple(cut[:negatives]), tuple(cut[negatives:])
    inputs = as_inputs(one, other, of_key=of_key, of_query=of_query)
    result = method.step(inputs, encode=method.trained, moment=MOMENT)

    encoder = reference.encoder
    z1, z2 = in_groups(encoder, one), shuffled_in_groups(encoder, other, VIEW_2_PASS)
    hards: list[Tensor | None] = [None, None]
    if negatives:
        with torch.set_grad_enabled(gradient):
            hards = [
                torch.stack(
                    [
                        shuffled_in_groups(encoder, images, HARD_NEGATIVE_PASS + first + index)
                        for index, images in enumerate(part)
                    ],
                    dim=1,
                )
                for first, part in ((0, of_key), (negatives, of_query))
            ]
    expected, _ = nt_xent(
        z1,
        z2,
        temperature=0.3,
        hard_negatives1_BND=hards[0],
        hard_negatives2_BND=hards[1],
        rho=RHO,
    )
    torch.testing.assert_close(result.loss, expected)
    result.loss.backward()
    expected.backward()
    for ours, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert ("hard_negative_similarity" in result.metrics) == (negatives > 0)
    assert result.settings == {"rho": RHO}


def test_hard_negatives_leave_the_running_statistics_alone() -> None:
    one, other, cut = make_images(3)
    buffers = [
        step_of((make_method(), as_inputs(one, other, of_key=negatives, of_query=negatives)))[
            "buffers"
        ]
        for negatives in ((), (10 * cut,))
    ]
    names = [name for name in buffers[0] if "running" in name]
    assert len(names) == 2
    assert all(torch.equal(buffers[0][name], buffers[1][name]) for name in names)
    fresh = dict(make_method().named_buffers())
    assert not any(torch.equal(buffers[0][name], fresh[name]) for name in names)


def test_an_anchor_gets_the_negatives_cut_from_the_other_view() -> None:
    one, other, cut, opposite = make_images(4)
    scenarios = (
        as_inputs(one, other, of_key=(cut,), of_query=(opposite,)),
        as_inputs(one, other, of_key=(opposite,), of_query=(cut,)),
    )
    losses = [float(step_of((make_method(), inputs))["loss"]) for inputs in scenarios]
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


def test_descending_the_gradient_lowers_the_loss() -> None:
    method = make_method()
    one, other, a, b = make_images(4)
    optimiser = torch.optim.SGD(method.trained.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        result = method.step(
            as_inputs(one, other, of_key=(a,), of_query=(b,)), encode=method.trained, moment=MOMENT
        )
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        losses.append(result.loss.item())
    assert all(after < before for before, after in pairwise(losses)), losses
    assert losses[-1] < losses[0] - 0.05, losses


def test_spread_tells_a_collapse() -> None:
    one, other = make_images(2)
    spreads = []
    for collapsed in (False, True):
        method = make_method()
        if collapsed:  # the last layer gives its bias, whatever it sees
            last = method.encoder.head[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
        result = method.step(as_inputs(one, other), encode=method.trained, moment=MOMENT)
        spreads.append(float(result.metrics["embedding_spread"]))
    assert spreads[0] > 1e-3
    assert spreads[1] < 1e-6


def test_one_negative_for_the_whole_batch_is_encoded_alone_and_shared() -> None:
    one, other, a, b = make_images(4)
    method, reference = make_method(), make_method()
    inputs = as_inputs(one, other, of_key=(a[:1],), of_query=(b[:1],))
    result = method.step(inputs, encode=method.trained, moment=MOMENT)
    z1 = in_groups(reference.encoder, one)
    z2 = shuffled_in_groups(reference.encoder, other, VIEW_2_PASS)
    similarities = [z @ reference.encoder(n[:1])[0] for z, n in ((z1, a), (z2, b))]
    expected = torch.cat(similarities).mean().detach()
    torch.testing.assert_close(result.metrics["hard_negative_similarity"], expected)
    one_position = torch.zeros(1, 3, 3, 3, dtype=torch.float64)  # a 3 x 3 kernel leaves 1 x 1
    inputs = as_inputs(one, other, of_key=(one_position,), of_query=(one_position,))
    with pytest.raises(InputError, match=r"larger views or masks\.behaviour paper"):
        method.step(inputs, encode=method.trained, moment=MOMENT)


def test_the_backbone_that_is_kept_is_the_encoder_s() -> None:
    method = make_method()
    assert method.backbone is method.encoder.backbone
    assert method.trained is method.encoder


def scenarios() -> dict[str, Scenario]:
    one, other, a, b, c, d = make_images(6)
    plain = as_inputs(one, other)
    hard = as_inputs(one, other, of_key=(a,), of_query=(b,))
    twice = as_inputs(one, other, of_key=(a, b), of_query=(c, d))
    return {
        "plain": (make_method(), plain),
        "hard": (make_method(), hard),
        "with gradient": (make_method(replace(CONFIG, negative_gradient=True)), twice),
        "prime weights": (make_method(replace(CONFIG, prime_weights=True)), twice),
        "weights": (make_method(), weighted(hard)),
    }


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_give_the_loss_and_gradients_of_one_process(tmp_path: Path, world_size: int) -> None:
    """Batch norm included: its groups are no larger than a rank's batch."""
    assert_ranks_are_one_process(scenarios, world_size, tmp_path / "ranks")


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"temperature": 0.0}, "temperature 0.0 must be above 0"),
        ({"hard_negatives": -1}, "hard_negatives -1"),
        ({"embedding_dim": 0}, "embedding_dim 0"),
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=rf"method\.{name}"):
        SimCLRConfig(**wrong)


def test_batches_that_do_not_fit_are_refused() -> None:
    config = SimCLRConfig(batch_norm_group=32)
    config.check_batch(64, 2)
    with pytest.raises(InputError, match=r"method\.batch_norm_group 32 does not divide the 16"):
        config.check_batch(64, 4)
    assert SimCLRConfig(rho=2, rho_warmup_epochs=1).rho_at(Moment(5, 10, 20)) == 1
