"""The object head of SimCLR and MoCo v2: steps written by hand, and many ranks against one."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

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
)
from training.core.distributed import batch_permutation
from training.core.schedules import Moment
from training.methods.interface import ProjectedBackbone, unit_rows
from training.methods.losses import info_nce, nt_xent
from training.methods.moco.method import MoCoV2
from training.methods.moco.settings import MoCoConfig
from training.methods.simclr.method import SimCLR
from training.methods.simclr.settings import SimCLRConfig
from training.views.inputs import EncoderInputs

WEIGHT, RHO = 0.3, 1.7
COMMON: dict[str, Any] = {
    "embedding_dim": 6,
    "temperature": 0.3,
    "batch_norm_group": GROUP,
    "object_weight": WEIGHT,
    "object_rho": RHO,
}
SIMCLR = SimCLRConfig(**COMMON)
MOCO = MoCoConfig(**COMMON, queue_size=24, key_momentum=0.9)
KINDS = ["hard", "exchange", "both"]


def simclr(config: SimCLRConfig) -> SimCLR:
    return SimCLR(config, small_backbone(), batch_size=BATCH, seed=1).double()


def moco(config: MoCoConfig) -> MoCoV2:
    return MoCoV2(config, small_backbone(), batch_size=BATCH, seed=1).double()


def inputs_for(kind: str, *, of_query: bool) -> EncoderInputs:
    query, key, exchanged, cut, opposite = make_images(5)
    return as_inputs(
        query,
        key,
        of_key=() if kind == "exchange" else (cut,),
        of_query=(opposite,) if of_query and kind != "exchange" else (),
        exchanged=None if kind == "hard" else exchanged,
    )


def embedded(encoder: ProjectedBackbone, images: Tensor, head: nn.Module) -> Tensor:
    """By hand: group by group through the backbone and one head."""
    groups = images.split(GROUP)
    return torch.cat([unit_rows(head(encoder.backbone(group))) for group in groups])


def shuffled(encoder: ProjectedBackbone, images: Tensor, head: nn.Module, branch: int) -> Tensor:
    order = batch_permutation(BATCH, seed=1, step=STEP, branch=branch)
    return embedded(encoder, images[order], head)[torch.argsort(order)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_simclr_is_what_is_written(kind: str) -> None:
    config = replace(SIMCLR, object_head=kind)  # type: ignore[arg-type]
    method, reference = simclr(config), simclr(config)
    inputs = inputs_for(kind, of_query=True)
    views = inputs.views
    result = method.step(inputs, encode=method.trained, moment=MOMENT)
    result.loss.backward()

    encoder = reference.encoder
    plain, about = encoder.head, encoder.object_head
    assert about is not None
    expected_plain, _ = nt_xent(
        embedded(encoder, views["query"], plain),
        shuffled(encoder, views["key"], plain, 0),
        temperature=0.3,
    )
    anchor = views.get("exchanged", views["query"])
    hards: list[Tensor | None] = [None, None]
    if kind != "exchange":
        with torch.no_grad():
            cut = (views["negative-key-0"], views["negative-query-0"])
            hards = [shuffled(encoder, cut[n], about, 1 + n)[:, None] for n in range(2)]
    expected_object, _ = nt_xent(
        embedded(encoder, anchor, about),
        shuffled(encoder, views["key"], about, 0),
        temperature=0.3,
        hard_negatives1_BND=hards[0],
        hard_negatives2_BND=hards[1],
        rho=RHO,
    )
    expected = (1 - WEIGHT) * expected_plain + WEIGHT * expected_object
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(result.metrics["object_loss"], expected_object.detach())
    expected.backward()
    for ours, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert ("hard_negative_share" in result.metrics) == (kind != "exchange")


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_moco_is_what_is_written(kind: str) -> None:
    config = replace(MOCO, object_head=kind)  # type: ignore[arg-type]
    method, reference = moco(config), moco(config)
    inputs = inputs_for(kind, of_query=False)
    views = inputs.views
    queues = [queue.keys.clone() for queue in (method.queue, method.object_queue) if queue]
    result = method.step(inputs, encode=method.trained, moment=MOMENT)
    result.loss.backward()

    fast, slow = reference.query_encoder, reference.key_encoder
    with torch.no_grad():
        for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
            old.mul_(0.9).add_(new, alpha=0.1)
    assert fast.object_head is not None
    assert slow.object_head is not None
    anchor = views.get("exchanged", views["query"])
    with torch.no_grad():
        keys = [shuffled(slow, views["key"], head, 0) for head in (slow.head, slow.object_head)]
        hard = (
            None
            if kind == "exchange"
            else shuffled(slow, views["negative-key-0"], slow.object_head, 1)[:, None]
        )
    expected_plain, _ = info_nce(
        embedded(fast, views["query"], fast.head), keys[0], queues[0], temperature=0.3
    )
    expected_object, _ = info_nce(
        embedded(fast, anchor, fast.object_head),
        keys[1],
        queues[1],
        temperature=0.3,
        hard_negatives_BND=hard,
        rho=RHO,
    )
    expected = (1 - WEIGHT) * expected_plain + WEIGHT * expected_object
    torch.testing.assert_close(result.loss, expected)
    expected.backward()
    for ours, theirs in zip(fast.parameters(), method.query_encoder.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert method.object_queue is not None
    start = STEP * BATCH % 24
    for queue, key in zip((method.queue, method.object_queue), keys, strict=True):
        torch.testing.assert_close(queue.keys[start : start + BATCH], key)


def test_the_first_head_starts_with_the_weights_it_has_alone() -> None:
    with_head = simclr(replace(SIMCLR, object_head="both")).state_dict()
    without = simclr(SIMCLR).state_dict()
    assert without.keys() < with_head.keys()
    assert all(torch.equal(with_head[name], value) for name, value in without.items())


def test_the_embedder_is_the_plain_head() -> None:
    image = make_images(1)[0]
    for method in (simclr(replace(SIMCLR, object_head="both")), simclr(SIMCLR)):
        rows = method.embedder.eval()(image)
        assert rows.shape == (BATCH, 6)
        torch.testing.assert_close(rows, method.encoder(image)[:, :6])


def scenarios() -> dict[str, Scenario]:
    found: dict[str, Scenario] = {}
    for kind in KINDS:
        of_moco = replace(MOCO, object_head=kind)  # type: ignore[arg-type]
        of_simclr = replace(SIMCLR, object_head=kind)  # type: ignore[arg-type]
        found[f"moco {kind}"] = moco(of_moco), inputs_for(kind, of_query=False)
        found[f"simclr {kind}"] = simclr(of_simclr), inputs_for(kind, of_query=True)
    return found


def test_ranks_give_the_loss_and_gradients_of_one_process(tmp_path: Path) -> None:
    assert_ranks_are_one_process(scenarios, 2, tmp_path / "ranks")


@pytest.mark.parametrize("config", [SIMCLR, MOCO])
def test_what_the_settings_ask_for(config: SimCLRConfig | MoCoConfig) -> None:
    exchanges = {"off": None, "hard": None, "exchange": 0.6, "both": 0.6}
    for kind, share in exchanges.items():
        made = replace(config, object_head=kind)  # type: ignore[arg-type]
        assert made.exchange == share
        assert made.num_hard_negatives == (kind != "exchange")
        assert made.rho_at(Moment(50, 10, 100)) == (config.rho if kind == "off" else RHO)


def test_the_hard_mass_is_that_of_the_paper_s_queue() -> None:
    """Against n orthogonal negatives the share is the one that rho has against 65536."""
    for mass, meant in (("paper", 65536), (1000.0, 1000)):
        config = replace(SIMCLR, hard_mass=mass)  # type: ignore[arg-type]
        for negatives in (14, 1024):
            hard = math.exp(2.0 * 0.7 / 0.2 + config.log_mass(negatives))
            assert hard / negatives == pytest.approx(math.exp(7) / meant, rel=1e-12)
    assert replace(SIMCLR, hard_mass=None).log_mass(14) == 0


def test_a_lower_mass_lowers_the_share() -> None:
    query, key, cut, opposite = make_images(4)
    inputs = as_inputs(query, key, of_key=(cut,), of_query=(opposite,))
    masses: tuple[float | Literal["paper"] | None, ...] = (None, 1000.0, "paper")
    steps = [step_of((simclr(replace(SIMCLR, hard_mass=mass)), inputs)) for mass in masses]
    shares = [float(step["metrics"]["hard_negative_share"]) for step in steps]
    odds = [share / (1 - share) for share in shares]
    # Exact for each anchor; the mean over anchors, whose shares differ, is near it.
    assert odds[1] / odds[0] == pytest.approx(14 / 1000, rel=0.1)
    assert odds[2] / odds[1] == pytest.approx(1000 / 65536, rel=0.1)


def test_masked_negatives_leave_the_key_encoder_s_statistics_alone() -> None:
    query, key, cut = make_images(3)
    buffers = [
        step_of((moco(MOCO), as_inputs(query, key, of_key=negatives)))["buffers"]
        for negatives in ((), (10 * cut,))
    ]
    names = [name for name in buffers[0] if name.startswith("key_encoder") and "running" in name]
    assert len(names) == 2
    assert all(torch.equal(buffers[0][name], buffers[1][name]) for name in names)


def test_the_key_momentum_follows_its_schedule() -> None:
    config = replace(MOCO, key_momentum=0.9, key_momentum_end=1.0)
    found = [config.key_momentum_at(Moment(step, 10, 100)) for step in (0, 50, 100)]
    assert found == pytest.approx([0.9, 0.95, 1.0])
    assert MOCO.key_momentum_at(Moment(50, 10, 100)) == 0.9


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"object_head": "two"}, "object_head two is unknown: choose from off, hard"),
        ({"object_weight": 1.5}, "object_weight 1.5"),
        ({"object_rho": -1.0}, "object_rho -1.0"),
        ({"object_exchange_probability": -0.1}, "object_exchange_probability -0.1"),
        ({"hard_mass": 0.0}, "hard_mass 0.0"),
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=rf"method\.{name}"):
        SimCLRConfig(**wrong)
