"""MoCo v2 against a step written by hand, and many ranks against one process."""

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import InputError
from training.distributed import batch_permutation
from training.encoder import Backbone
from training.inputs import EncoderInputs
from training.methods.moco import HARD_NEGATIVE_PASS, KEY_PASS, MoCoConfig, MoCoV2

BATCH, GROUP, STEP, RHO = 8, 4, 5, 1.5
CONFIG = MoCoConfig(
    embedding_dim=6, queue_size=24, temperature=0.3, key_momentum=0.9, batch_norm_group=GROUP
)


def make_method(config: MoCoConfig = CONFIG) -> MoCoV2:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    method = MoCoV2(config, Backbone(network, 5), batch_size=BATCH, seed=1).double()
    with torch.no_grad():  # a key encoder that differs, as in mid-run
        for p in method.key_encoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return method


def make_images(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    shape = (BATCH, 3, 8, 8)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def as_inputs(query: Tensor, key: Tensor, negative: Tensor | None) -> EncoderInputs:
    grid = torch.zeros(2, len(query), 1, 1, dtype=torch.bool)
    return EncoderInputs(query, key, negative, grid, grid[0][:, None], None, {})


def shuffled_in_groups(encoder: nn.Module, images: Tensor, branch: int) -> Tensor:
    """Key encoding by hand: shuffle, encode group by group, put back."""
    order = batch_permutation(BATCH, seed=1, step=STEP, branch=branch)
    out = torch.empty(BATCH, CONFIG.embedding_dim, dtype=torch.float64)
    out[order] = torch.cat([encoder(group) for group in images[order].split(GROUP)])
    return out


@pytest.mark.parametrize("hard", [False, True])
def test_a_step_is_what_the_paper_says(hard: bool) -> None:
    method, reference = make_method(), make_method()
    query, key, negative = make_images()
    result = method.step(
        as_inputs(query, key, negative if hard else None),
        encode_query=method.query_encoder,
        step=STEP,
        rho=RHO,
    )

    q = torch.cat([reference.query_encoder(group) for group in query.split(GROUP)])
    with torch.no_grad():
        pairs = zip(
            reference.key_encoder.parameters(), reference.query_encoder.parameters(), strict=True
        )
        for slow, fast in pairs:
            slow.mul_(0.9).add_(fast, alpha=0.1)
        k = shuffled_in_groups(reference.key_encoder, key, KEY_PASS)
        n = shuffled_in_groups(reference.key_encoder, negative, HARD_NEGATIVE_PASS)
    old_queue = reference.queue.keys.clone()
    columns = [(q * k).sum(1, keepdim=True), q @ old_queue.T]
    columns += [RHO * (q * n).sum(1, keepdim=True)] if hard else []
    logits = torch.cat(columns, dim=1) / CONFIG.temperature
    expected = cross_entropy(logits, torch.zeros(BATCH, dtype=torch.long))

    torch.testing.assert_close(result.loss, expected)
    start = (STEP * BATCH) % CONFIG.queue_size
    torch.testing.assert_close(method.queue.keys[start : start + BATCH], k)
    assert ("hard_negative_similarity" in result.metrics) == hard
    result.loss.backward()
    expected.backward()
    for ours, theirs in zip(
        method.query_encoder.parameters(), reference.query_encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert all(p.grad is None for p in method.key_encoder.parameters())


def test_descending_the_gradient_lowers_the_loss() -> None:
    method = make_method(replace(CONFIG, key_momentum=0.9999))  # keys that hardly move
    query, key, negative = make_images()
    queue = method.queue.keys.clone()
    optimizer = torch.optim.SGD(method.trained.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        method.queue.keys.copy_(queue)
        result = method.step(
            as_inputs(query, key, negative),
            encode_query=method.query_encoder,
            step=STEP,
            rho=RHO,
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
    _, key, _ = make_images()
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


def test_spread_tells_a_collapse() -> None:
    query, key, _ = make_images()
    spreads = []
    for collapsed in (False, True):
        method = make_method()
        if collapsed:  # the last layer gives its bias, whatever it sees
            for encoder in (method.query_encoder, method.key_encoder):
                last = encoder.head[-1]
                assert isinstance(last, nn.Linear)
                nn.init.zeros_(last.weight)
        result = method.step(
            as_inputs(query, key, None), encode_query=method.query_encoder, step=0, rho=0
        )
        spreads.append(float(result.metrics["embedding_spread"]))
    assert spreads[0] > 1e-3
    assert spreads[1] < 1e-6


def _rank_step(rank: int, world_size: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "USE_LIBUV": "0"}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
    )
    torch.save(_step_of(rank, world_size), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def _step_of(rank: int, world_size: int) -> dict[str, Any]:
    method = make_method()
    parts = [image.chunk(world_size)[rank] for image in make_images()]
    encode = method.query_encoder
    wrapped = DistributedDataParallel(encode, broadcast_buffers=False) if world_size > 1 else encode
    result = method.step(as_inputs(*parts), encode_query=wrapped, step=STEP, rho=RHO)
    result.loss.backward()
    return {
        "loss": result.loss.detach(),
        "grads": [p.grad for p in method.query_encoder.parameters()],
        "queue": method.queue.keys,
    }


def test_two_ranks_give_the_loss_and_gradients_of_one_process(tmp_path: Path) -> None:
    """Batch norm included: its groups are as large as a rank's batch."""
    spawn(_rank_step, args=(2, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2)]
    alone = _step_of(0, 1)
    mean_loss = torch.stack([r["loss"] for r in ranks]).mean()
    torch.testing.assert_close(mean_loss, alone["loss"])
    for r in ranks:
        torch.testing.assert_close(r["queue"], alone["queue"])
        for ours, theirs in zip(r["grads"], alone["grads"], strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"key_momentum": 1.0}, "key_momentum"),
        ({"hard_negatives": 2}, "hard_negatives"),
        ({"rho": -1.0}, "rho"),
        ({"embedding_dim": 0}, "embedding_dim"),
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
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
