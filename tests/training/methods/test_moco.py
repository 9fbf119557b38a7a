"""MoCo v2 against a step written by hand, and many ranks against one process."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.core.errors import InputError
from tests.training.methods import small
from tests.training.methods.small import (
    BATCH,
    GROUP,
    MOMENT,
    STEP,
    Scenario,
    assert_ranks_are_one_process,
    make_images,
    small_backbone,
    weighted,
)
from training.core.distributed import batch_permutation
from training.core.schedules import Moment
from training.methods.moco.method import HARD_NEGATIVE_PASS, KEY_PASS, MoCoV2
from training.methods.moco.settings import MoCoConfig
from training.views.inputs import EncoderInputs

RHO = 1.5
CONFIG = MoCoConfig(
    embedding_dim=6,
    queue_size=24,
    temperature=0.3,
    key_momentum=0.9,
    rho=RHO,
    batch_norm_group=GROUP,
)


def make_method(config: MoCoConfig = CONFIG) -> MoCoV2:
    method = MoCoV2(config, small_backbone(), batch_size=BATCH, seed=1).double()
    with torch.no_grad():  # a key encoder that differs, as in mid-run
        for p in method.key_encoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return method


def as_inputs(query: Tensor, key: Tensor, *negatives: Tensor) -> EncoderInputs:
    return small.as_inputs(query, key, of_key=negatives)


def shuffled_in_groups(encoder: nn.Module, images: Tensor, branch: int) -> Tensor:
    """Key encoding by hand: shuffle, encode group by group, put back."""
    order = batch_permutation(BATCH, seed=1, step=STEP, branch=branch)
    out = torch.empty(BATCH, CONFIG.embedding_dim, dtype=torch.float64)
    out[order] = torch.cat([encoder(group) for group in images[order].split(GROUP)])
    return out


@pytest.mark.parametrize("hard", [0, 1, 3])
def test_a_step_is_what_the_paper_says(hard: int) -> None:
    method, reference = make_method(), make_method()
    query, key, *negatives = make_images(2 + hard)
    result = method.step(
        as_inputs(query, key, *negatives), encode=method.query_encoder, moment=MOMENT
    )

    q = torch.cat([reference.query_encoder(group) for group in query.split(GROUP)])
    with torch.no_grad():
        pairs = zip(
            reference.key_encoder.parameters(), reference.query_encoder.parameters(), strict=True
        )
        for slow, fast in pairs:
            slow.mul_(0.9).add_(fast, alpha=0.1)
        k = shuffled_in_groups(reference.key_encoder, key, KEY_PASS)
        ns = [
            shuffled_in_groups(reference.key_encoder, negative, HARD_NEGATIVE_PASS + index)
            for index, negative in enumerate(negatives)
        ]
    old_queue = reference.queue.keys.clone()
    columns = [(q * k).sum(1, keepdim=True), q @ old_queue.T]
    columns += [RHO * (q * n).sum(1, keepdim=True) for n in ns]
    logits = torch.cat(columns, dim=1) / CONFIG.temperature
    expected = cross_entropy(logits, torch.zeros(BATCH, dtype=torch.long))

    torch.testing.assert_close(result.loss, expected)
    start = (STEP * BATCH) % CONFIG.queue_size
    torch.testing.assert_close(method.queue.keys[start : start + BATCH], k)
    assert ("hard_negative_similarity" in result.metrics) == (hard > 0)
    assert result.settings == {"rho": RHO}
    result.loss.backward()
    expected.backward()
    for ours, theirs in zip(
        method.query_encoder.parameters(), reference.query_encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert all(p.grad is None for p in method.key_encoder.parameters())


def test_descending_the_gradient_lowers_the_loss() -> None:
    method = make_method(replace(CONFIG, key_momentum=0.9999))  # keys that hardly move
    query, key, negative = make_images(3)
    queue = method.queue.keys.clone()
    optimizer = torch.optim.SGD(method.trained.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        method.queue.keys.copy_(queue)
        result = method.step(
            as_inputs(query, key, negative), encode=method.query_encoder, moment=MOMENT
        )
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(result.loss.item())
    assert all(after < before for before, after in pairwise(losses)), losses
    assert losses[-1] < losses[0] - 0.05, losses


def test_shuffling_keeps_each_key_with_its_query() -> None:
    method = make_method(MoCoConfig(embedding_dim=6, queue_size=24, batch_norm_group=None))
    method.key_encoder.eval()  # without batch statistics the order must not matter at all
    _, key, _ = make_images(3)
    torch.testing.assert_close(method._encode_keys(key, STEP, KEY_PASS), method.key_encoder(key))


def test_permutations_differ_by_step_and_branch() -> None:
    orders = {
        tuple(batch_permutation(32, seed=s, step=t, branch=b).tolist())
        for s in (0, 1)
        for t in (0, 1)
        for b in (0, 1)
    }
    assert len(orders) == 8
    assert all(sorted(order) == list(range(32)) for order in orders)


def test_one_negative_for_the_whole_batch_is_encoded_alone_and_shared() -> None:
    """The published code's way: a batch of one image, with its own batch statistics."""
    method, reference = make_method(), make_method()
    query, key, negative = make_images(3)
    result = method.step(
        as_inputs(query, key, negative[:1]), encode=method.query_encoder, moment=MOMENT
    )
    with torch.no_grad():
        q = torch.cat([reference.query_encoder(group) for group in query.split(GROUP)])
        pairs = zip(
            reference.key_encoder.parameters(), reference.query_encoder.parameters(), strict=True
        )
        for slow, fast in pairs:
            slow.mul_(0.9).add_(fast, alpha=0.1)
        shared = reference.key_encoder(negative[:1])[0]
    torch.testing.assert_close(result.metrics["hard_negative_similarity"], (q @ shared).mean())


def test_a_batch_of_one_without_statistics_is_explained() -> None:
    method = make_method()
    query, key, _ = make_images(3)
    one_position = torch.zeros(1, 3, 3, 3, dtype=torch.float64)  # a 3 x 3 kernel leaves 1 x 1
    with pytest.raises(InputError, match=r"larger views or masks\.behaviour paper"):
        method.step(as_inputs(query, key, one_position), encode=method.trained, moment=MOMENT)


def test_rho_rises() -> None:
    config = MoCoConfig(rho=2.0, rho_warmup_epochs=2, hard_negatives=3)
    assert [config.rho_at(Moment(step, 10, 100)) for step in (0, 5, 20, 30)] == [0, 0.5, 2, 2]


def test_the_head_is_as_deep_and_wide_as_asked() -> None:
    method = make_method(replace(CONFIG, head_layers=3, head_width=7))
    layers = [m for m in method.query_encoder.head if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(5, 7), (7, 7), (7, 6)]


def test_spread_tells_a_collapse() -> None:
    query, key, _ = make_images(3)
    spreads = []
    for collapsed in (False, True):
        method = make_method()
        if collapsed:  # the last layer gives its bias, whatever it sees
            for encoder in (method.query_encoder, method.key_encoder):
                last = encoder.head[-1]
                assert isinstance(last, nn.Linear)
                nn.init.zeros_(last.weight)
        result = method.step(
            as_inputs(query, key), encode=method.query_encoder, moment=Moment(0, 10, 100)
        )
        spreads.append(float(result.metrics["embedding_spread"]))
    assert spreads[0] > 1e-3
    assert spreads[1] < 1e-6


def scenarios() -> dict[str, Scenario]:
    query, key, *negatives = make_images(5)
    return {
        "plain": (make_method(), as_inputs(query, key)),
        "hard": (make_method(), as_inputs(query, key, *negatives[:1])),
        "prime weights": (
            make_method(replace(CONFIG, prime_weights=True)),
            as_inputs(query, key, *negatives),
        ),
        "weights": (make_method(), weighted(as_inputs(query, key, *negatives))),
    }


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_give_the_loss_and_gradients_of_one_process(tmp_path: Path, world_size: int) -> None:
    """Batch norm included: its groups are no larger than a rank's batch."""
    assert_ranks_are_one_process(scenarios, world_size, tmp_path / "ranks")


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"key_momentum": 1.0}, "key_momentum"),
        ({"hard_negatives": -1}, "hard_negatives"),
        ({"head_layers": 0}, "head_layers"),
        ({"head_width": 0}, "head_width"),
        ({"prime_power": -1.0}, "prime_power"),
        ({"prime_bias": 1.5}, "prime_bias"),
        ({"rho_warmup_epochs": -1.0}, "rho_warmup_epochs"),
        ({"rho": -1.0}, "rho"),
        ({"embedding_dim": 0}, "embedding_dim"),
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=rf"method\.{name}"):
        MoCoConfig(**wrong)


def test_batches_that_do_not_fit_are_refused() -> None:
    config = MoCoConfig(queue_size=1024, batch_norm_group=32)
    config.check_batch(64, 2)
    with pytest.raises(InputError, match="queue_size 1024 is not a multiple"):
        config.check_batch(96, 1)
    with pytest.raises(InputError, match="32 does not divide the 16 images"):
        config.check_batch(64, 4)
    with pytest.raises(InputError, match="use at most 32 ranks"):
        config.check_batch(64, 64)
