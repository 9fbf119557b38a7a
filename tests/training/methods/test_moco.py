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
from training.draws import View, negative_view
from training.encoder import Backbone
from training.inputs import EncoderInputs
from training.methods.interface import Moment
from training.methods.moco import HARD_NEGATIVE_PASS, KEY_PASS, MoCoConfig, MoCoV2

BATCH, GROUP, STEP, RHO = 8, 4, 5, 1.5
MOMENT = Moment(step=STEP, steps_per_epoch=10, total_steps=100)
CONFIG = MoCoConfig(
    embedding_dim=6,
    queue_size=24,
    temperature=0.3,
    key_momentum=0.9,
    rho=RHO,
    batch_norm_group=GROUP,
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


def as_inputs(query: Tensor, key: Tensor, *negatives: Tensor) -> EncoderInputs:
    grid = torch.zeros(2, len(query), 1, 1, dtype=torch.bool)
    cut = {View.KEY: negatives} if negatives else {}
    return EncoderInputs(query, key, cut, grid, {}, {})


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
    query, key, negative = make_images()
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


def test_one_negative_for_the_whole_batch_is_encoded_alone_and_shared() -> None:
    """The published code's way: a batch of one image, with its own batch statistics."""
    method, reference = make_method(), make_method()
    query, key, negative = make_images()
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
    query, key, _ = make_images()
    one_position = torch.zeros(1, 3, 3, 3, dtype=torch.float64)  # a 3 x 3 kernel leaves 1 x 1
    with pytest.raises(InputError, match=r"larger views or masks\.behaviour paper"):
        method.step(as_inputs(query, key, one_position), encode=method.trained, moment=MOMENT)


def test_rho_rises_and_negatives_are_numbered() -> None:
    config = MoCoConfig(rho=2.0, rho_warmup_epochs=2, hard_negatives=3)
    assert [config.rho_at(Moment(step, 10, 100)) for step in (0, 5, 20, 30)] == [0, 0.5, 2, 2]
    assert config.negative_views == tuple(negative_view(View.KEY, i) for i in range(3))
    assert MoCoConfig(hard_negatives=0).negative_views == ()


def test_the_head_is_as_deep_and_wide_as_asked() -> None:
    method = make_method(replace(CONFIG, head_layers=3, head_width=7))
    layers = [m for m in method.query_encoder.head if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(5, 7), (7, 7), (7, 6)]


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
            as_inputs(query, key), encode=method.query_encoder, moment=Moment(0, 10, 100)
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
    result = method.step(as_inputs(*parts), encode=wrapped, moment=MOMENT)
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
    with pytest.raises(InputError, match=rf"moco\.{name}"):
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
