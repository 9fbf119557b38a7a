"""Steps of every method: they learn, on any number of ranks, and never wait for the device."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.methods import test_byol, test_contrastive, test_vicreg
from tests.training.methods.small import (
    BATCH,
    MOMENT,
    Scenario,
    assert_ranks_are_one_process,
    small_inputs,
    small_method,
    weighted,
)
from training.methods.byol.settings import BYOLConfig
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import OBJECT_HEADS, MethodConfig
from training.methods.simclr.settings import SimCLRConfig
from training.methods.vicreg.settings import VICRegConfig

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}
"""Operations whose result, or whose result's shape, a GPU must send to the host."""
HARD: dict[str, Any] = {"hard_negatives": 2, "prime_weights": True, "batch_norm_group": 4}
HARD["hard_kind"] = "both"


class Reads(TorchDispatchMode):
    """Notes every operation that reads a value back."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  (an operation of torch's)
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        by_mask = func is aten.index.Tensor and any(
            part is not None and part.dtype == torch.bool for part in args[1]
        )
        if func in READS or by_mask:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "read",
    [
        Tensor.item,
        bool,
        Tensor.nonzero,
        lambda row: row[row > 0],
        lambda row: torch.equal(row, row),
        lambda row: torch.arange(3).repeat_interleave(row.long().expand(3)),
    ],
)
def test_a_read_is_seen(read: Callable[[Tensor], object]) -> None:
    with Reads() as reads:
        read(torch.ones(1))
    assert reads.seen


CONFIGS: dict[str, MethodConfig] = {
    "moco_v2": MoCoConfig(queue_size=16, object_head="both", queries=2, **HARD),
    "simclr": SimCLRConfig(object_head="both", queries=2, **HARD),
    "simclr with gradient": SimCLRConfig(negative_gradient=True, **HARD),
    "byol": BYOLConfig(batch_norm_group=4, head_width=8, predictor_width=8),
    "vicreg": VICRegConfig(batch_norm_group=4, embedding_dim=8, head_width=8),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("negatives", [1, BATCH])
def test_a_step_reads_nothing_back(name: str, negatives: int) -> None:
    method, inputs = small_method(CONFIGS[name]), small_inputs(CONFIGS[name])
    cut = {n: v[:negatives] for n, v in inputs.views.items() if n.startswith("negative")}
    inputs = weighted(inputs._replace(views=inputs.views | cut))
    with Reads() as reads:
        result = method.step(inputs, encode=method.trained, moment=MOMENT)
        result.loss.backward()
    assert reads.seen == []
    assert all(p.grad is not None for p in method.trained.parameters())


OTHER: dict[str, Any] = {
    **{"hard_kind": "matched", "rho": 0.7, "rho_warmup_epochs": 9.0, "object_rho": 0.7},
    **{"hard_mass": 3.0, "prime_power": 2.0, "prime_bias": 0.9, "object_weight": 0.9},
    "object_exchange_probability": 0.1,
}


@pytest.mark.parametrize("prime", [False, True])
@pytest.mark.parametrize("num", [0, 2])
@pytest.mark.parametrize("head", OBJECT_HEADS)
def test_settings_are_idle_where_they_change_nothing(head: Any, num: int, prime: bool) -> None:  # noqa: ANN401
    config = SimCLRConfig(
        object_head=head, hard_negatives=num, prime_weights=prime, batch_norm_group=4
    )

    def told(config: SimCLRConfig) -> object:
        inputs = small_inputs(config)
        method = small_method(config)
        loss = method.step(inputs, encode=method.trained, moment=MOMENT).loss
        return list(inputs.views), config.exchange, float(loss.detach())

    changes = OTHER | {"prime_weights": not prime}
    without = {n for n, v in changes.items() if told(replace(config, **{n: v})) == told(config)}
    assert without == set(config.idle())


def scenarios() -> dict[str, Scenario]:
    return test_contrastive.scenarios() | test_byol.scenarios() | test_vicreg.scenarios()


def test_ranks_are_one_process(tmp_path: Path) -> None:
    """Batch norm included: its groups are no larger than a rank's batch."""
    assert_ranks_are_one_process(scenarios, 4, tmp_path)


@pytest.mark.parametrize(
    ("config", "lr"),
    [
        (replace(test_contrastive.MOCO, key_momentum=0.9999), 0.1),  # keys that hardly move
        (test_contrastive.SIMCLR, 0.1),
        (replace(test_byol.CONFIG, target_momentum=0.999), 0.02),
        (test_vicreg.CONFIG, 0.0005),
    ],
)
def test_descending_the_gradient_lowers_the_loss(config: MethodConfig, lr: float) -> None:
    method, inputs = small_method(config), small_inputs(config)
    queue = method.queue.keys_KD.clone() if hasattr(method, "queue") else None
    optimiser = torch.optim.SGD(method.trained.parameters(), lr=lr)
    losses = []
    for _ in range(20):
        if queue is not None:
            method.queue.keys_KD.copy_(queue)
        result = method.step(inputs, encode=method.trained, moment=MOMENT)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        losses.append(result.loss.item())
    assert all(after < before for before, after in pairwise(losses)), losses
    assert losses[-1] < losses[0] - 0.05, losses
