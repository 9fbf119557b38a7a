"""Steps of MoCo v2 and SimCLR against the same step written by hand."""

import math
from dataclasses import replace
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
    small_inputs,
    small_method,
    step_of,
    weighted,
)
from training.core.distributed import batch_permutation
from training.core.schedules import Moment
from training.methods.contrastive import (
    HARD_NEGATIVE_PASS,
    PAIR_PASS,
    ContrastiveMethod,
    HardNegatives,
)
from training.methods.interface import ProjectedBackbone, unit_rows
from training.methods.moco.method import MoCoV2, info_nce
from training.methods.moco.settings import MoCoConfig
from training.methods.prime_weights import prime_log_weights
from training.methods.settings import HardNegativeConfig
from training.methods.simclr.method import nt_xent
from training.methods.simclr.settings import SimCLRConfig
from training.randomness.draws import view_group
from training.views.inputs import EncoderInputs

RHO, OBJECT_RHO, WEIGHT, LOCAL_WEIGHT = 1.5, 1.7, 0.3, 0.35
COMMON: dict[str, Any] = {
    "embedding_dim": 6,
    "temperature": 0.3,
    "batch_norm_group": GROUP,
    "rho": RHO,
    "object_rho": OBJECT_RHO,
    "object_weight": WEIGHT,
    "local_weight": LOCAL_WEIGHT,
}
SIMCLR = SimCLRConfig(**COMMON)
MOCO = MoCoConfig(**COMMON, queue_size=24, key_momentum=0.9)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"hard_negatives": 0},
    "hard": {},
    "two hard": {"hard_negatives": 2},
    "prime weights": {"hard_negatives": 2, "prime_weights": True},
    "object hard": {"object_head": "hard"},
    "object exchange": {"object_head": "exchange"},
    "object both": {"object_head": "both", "hard_mass": "paper"},
    "matched": {"hard_kind": "matched", "hard_negatives": 2},
    "both kinds": {"hard_kind": "both", "hard_negatives": 2, "object_head": "both"},
    "further queries": {"queries": 2},
    "local crops": {"queries": 2},
    "weights": {},
    "released": {},
    "gradient": {"negative_gradient": True, "hard_negatives": 2},
}


CASES = [(k, v) for k in ("moco", "simclr") for v in VARIANTS if (k, v) != ("moco", "gradient")]
ANCHORS = {"moco_v2": [("query", "key")], "simclr": [("query", "key"), ("key", "query")]}
"""Crops of an image's anchors, and of the other view."""
KINDS = pytest.mark.parametrize("kind", ["moco", "simclr"])


def scenario(kind: str, variant: str) -> Scenario:
    config: HardNegativeConfig = {"moco": MOCO, "simclr": SIMCLR}[kind]
    config = replace(config, **VARIANTS[variant])
    inputs = small_inputs(config, local=2 if variant == "local crops" else 0)
    if variant == "weights":
        inputs = weighted(inputs)
    if variant == "released":  # one hard negative for the whole batch
        views = inputs.views.items()
        alone = {name: image[:1] for name, image in views if name.startswith("negative")}
        inputs = inputs._replace(views=inputs.views | alone)
    return small_method(config), inputs


def scenarios() -> dict[str, Scenario]:
    """Those that any number of ranks compute alike."""
    return {f"{k} {v}": scenario(k, v) for k, v in CASES if v != "released"}


def by_hand(reference: ContrastiveMethod, inputs: EncoderInputs) -> Tensor:
    """The loss, group by group and pass by pass; moves the key encoder of MoCo."""
    config, views, encoder = reference.config, inputs.views, reference.encoder
    slow, queues = encoder, [torch.empty(0)] * 2
    if isinstance(reference, MoCoV2):
        slow = reference.key_encoder
        queues = [q.keys_KD.clone() for q in (reference.queue, reference.object_queue) if q]
        with torch.no_grad():
            for old, new in zip(slow.parameters(), encoder.parameters(), strict=True):
                old.mul_(0.9).add_(new, alpha=0.1)

    def embedded(network: ProjectedBackbone, images: Tensor, head: int) -> Tensor:
        last = network.object_head if head else network.head
        assert last is not None
        groups = images.split(GROUP)
        return torch.cat([unit_rows(last(network.backbone(group))) for group in groups])

    def shuffled(name: str, shuffle: int, head: int) -> Tensor:
        order = batch_permutation(len(views[name]), seed=1, step=STEP, branch=shuffle)
        return embedded(slow, views[name][order], head)[torch.argsort(order)]

    own_head = int(config.has_object_head)
    # An anchor's own ones are cut from the other view, the matched one from its own.
    groups = [(f"negative-{other}", f"matched-{own}") for own, other in ANCHORS[config.name]]
    names = [name for group in groups for name in views if name.startswith(group)]
    hards: list[Tensor] = []
    for group in groups:
        with torch.set_grad_enabled(getattr(config, "negative_gradient", False)):
            own = [
                shuffled(name, HARD_NEGATIVE_PASS + index, own_head).expand(BATCH, -1)
                for index, name in enumerate(names)
                if name.startswith(group)
            ]
        hards += [torch.stack(own, dim=1)] if own else []

    def weigh(similarity: Tensor, scale: float | Tensor) -> Tensor:
        return prime_log_weights(similarity, scale=scale, power=0.5, bias=0.0)

    hard = None
    if hards:
        mass = math.log((24 if queues[0].numel() else 14) / 65536) if config.hard_mass else 0.0
        rho = OBJECT_RHO if own_head else RHO
        hard = HardNegatives(torch.cat(hards), rho, mass, weigh if config.prime_weights else None)

    def loss_of(rows: Tensor, head: int, hard: HardNegatives | None) -> Tensor:
        common: dict[str, Any] = {"temperature": 0.3, "hard": hard}
        if slow is encoder:
            key = shuffled("key", PAIR_PASS, head)
            return nt_xent(rows, key, weights_G=inputs.weights_B, **common)[0]
        with torch.no_grad():
            key = shuffled("key", PAIR_PASS, head)
        return info_nce(rows, key, queues[head], weights_B=inputs.weights_B, **common)[0]

    def plain(name: str, hard: HardNegatives | None = None) -> Tensor:
        return loss_of(embedded(encoder, views[name], 0), 0, hard)

    loss = plain("query", None if own_head else hard)
    if "query-1" in views:
        loss = (loss + plain("query-1")) / 2
    if "local-0" in views:
        local = (plain("local-0") + plain("local-1")) / 2
        loss = (1 - LOCAL_WEIGHT) * loss + LOCAL_WEIGHT * local
    if own_head:
        anchor = views.get("exchanged", views["query"])
        about = loss_of(embedded(encoder, anchor, 1), 1, hard)
        loss = (1 - WEIGHT) * loss + WEIGHT * about
    return loss


@pytest.mark.parametrize(("kind", "variant"), CASES)
def test_a_step_is_what_is_written(kind: str, variant: str) -> None:
    (method, inputs), (reference, _) = scenario(kind, variant), scenario(kind, variant)
    assert isinstance(method, ContrastiveMethod)
    assert isinstance(reference, ContrastiveMethod)
    result = method.step(inputs, encode=method.trained, moment=MOMENT)
    expected = by_hand(reference, inputs)
    torch.testing.assert_close(result.loss, expected)
    result.loss.backward()
    expected.backward()
    for ours, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    groups = {view_group(name) for name in inputs.views}
    assert ("hard_negative_similarity" in result.metrics) == bool(groups & {"negative", "matched"})
    assert ("matched_negative_similarity" in result.metrics) == ("matched" in groups)
    assert ("object_loss" in result.metrics) == method.config.has_object_head
    assert not any(metric.requires_grad for metric in result.metrics.values())
    assert result.settings == {"rho": OBJECT_RHO if method.config.has_object_head else RHO}
    if isinstance(method, MoCoV2):
        assert isinstance(reference, MoCoV2)
        start = (STEP * BATCH) % 24
        order = batch_permutation(BATCH, seed=1, step=STEP, branch=PAIR_PASS)
        shuffled_BX = torch.cat(
            [reference.key_encoder(group) for group in inputs.views["key"][order].split(GROUP)]
        )
        key_BX = shuffled_BX[torch.argsort(order)]
        queues = [queue for queue in (method.queue, method.object_queue) if queue is not None]
        for queue, key_BD in zip(queues, key_BX.chunk(len(queues), dim=1), strict=True):
            torch.testing.assert_close(queue.keys_KD[start : start + BATCH], key_BD)


def test_the_similarity_of_matched_negatives_is_theirs_alone() -> None:
    """Of three hard negatives, two of which are those of a step without matched ones."""
    own, both = (
        step_of((small_method(config), small_inputs(config)))["metrics"]
        for config in (replace(MOCO, hard_kind=k, hard_negatives=2) for k in ("own", "both"))
    )
    rest = 3 * both["hard_negative_similarity"] - 2 * own["hard_negative_similarity"]
    torch.testing.assert_close(both["matched_negative_similarity"], rest)


@KINDS
def test_equal_queries_give_the_loss_of_one(kind: str) -> None:
    losses = []
    for queries in (1, 3):
        config = replace({"moco": MOCO, "simclr": SIMCLR}[kind], queries=queries, hard_negatives=0)
        inputs = small_inputs(config)
        same = {n: inputs.views["query"] if "query" in n else v for n, v in inputs.views.items()}
        losses.append(step_of((small_method(config), inputs._replace(views=same)))["loss"])
    torch.testing.assert_close(losses[0], losses[1])


@KINDS
def test_masked_images_leave_the_running_statistics_of_keys_alone(kind: str) -> None:
    method, inputs = scenario(kind, "hard")
    large = {n: 10 * v if n.startswith("negative") else v for n, v in inputs.views.items()}
    name = "key_encoder" if kind == "moco" else "encoder"
    fresh = dict(method.named_buffers())
    buffers = [
        step_of((scenario(kind, "hard")[0], inputs._replace(views=views)))["buffers"]
        for views in (inputs.views, large)
    ]
    names = [n for n in buffers[0] if n.startswith(name) and "running" in n]
    assert len(names) == 2
    for running in names:
        assert torch.equal(buffers[0][running], buffers[1][running])
        assert not torch.equal(buffers[0][running], fresh[running])


@KINDS
def test_spread_tells_a_collapse(kind: str) -> None:
    spreads = []
    for collapsed in (False, True):
        method, inputs = scenario(kind, "plain")
        if collapsed:  # the last layer gives its bias, whatever it sees
            for module in method.modules():
                if isinstance(module, ProjectedBackbone):
                    last = module.head[-1]
                    assert isinstance(last, nn.Linear)
                    nn.init.zeros_(last.weight)
        result = method.step(inputs, encode=method.trained, moment=Moment(0, 10, 100))
        spreads.append(float(result.metrics["embedding_spread"]))
    assert spreads[0] > 1e-3
    assert spreads[1] < 1e-6


@KINDS
def test_a_batch_of_one_without_statistics_is_explained(kind: str) -> None:
    method, inputs = scenario(kind, "released")
    one_position = torch.zeros(1, 3, 3, 3, dtype=torch.float64)  # a 3 x 3 kernel leaves 1 x 1
    small = {n: one_position for n in inputs.views if n.startswith("negative")}
    with pytest.raises(InputError, match=r"larger views or masks\.behaviour paper"):
        method.step(
            inputs._replace(views=inputs.views | small), encode=method.trained, moment=MOMENT
        )


def test_heads_are_as_asked_and_the_first_starts_with_the_weights_it_has_alone() -> None:
    both = small_method(replace(SIMCLR, object_head="both", head_layers=3, head_width=7))
    alone = small_method(replace(SIMCLR, head_layers=3, head_width=7))
    layers = [m for m in alone.encoder.head if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(5, 7), (7, 7), (7, 6)]
    assert alone.state_dict().keys() < both.state_dict().keys()
    for name, value in alone.state_dict().items():
        assert torch.equal(both.state_dict()[name], value)
    image = small_inputs(SIMCLR).views["query"]
    for method in (alone, both):
        rows = method.embedder.eval()(image)
        torch.testing.assert_close(rows, method.encoder(image)[:, :6])
        assert method.backbone is method.encoder.backbone
        assert method.trained is method.encoder
