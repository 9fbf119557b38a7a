"""A method's step, backward pass included, never reads a value back from the device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.methods.small import BATCH, MOMENT, as_inputs, make_images, small_backbone
from training.methods.byol.method import BYOL
from training.methods.byol.settings import BYOLConfig
from training.methods.interface import Method
from training.methods.moco.method import MoCoV2
from training.methods.moco.settings import MoCoConfig
from training.methods.simclr.method import SimCLR
from training.methods.simclr.settings import SimCLRConfig

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
HARD = {"hard_negatives": 2, "prime_weights": True, "batch_norm_group": 4}


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


def methods() -> dict[str, Method]:
    size = {"batch_size": BATCH, "seed": 0}
    moco = MoCoConfig(queue_size=16, **HARD)  # type: ignore[arg-type]
    simclr = SimCLRConfig(**HARD)  # type: ignore[arg-type]
    with_gradient = SimCLRConfig(negative_gradient=True, **HARD)  # type: ignore[arg-type]
    byol = BYOLConfig(batch_norm_group=4, head_width=8, predictor_width=8)
    return {
        "moco_v2": MoCoV2(moco, small_backbone(), **size),
        "simclr": SimCLR(simclr, small_backbone(), **size),
        "simclr with gradient": SimCLR(with_gradient, small_backbone(), **size),
        "byol": BYOL(byol, small_backbone(), **size),
    }


@pytest.mark.parametrize("name", ["moco_v2", "simclr", "simclr with gradient", "byol"])
@pytest.mark.parametrize("negatives", [1, BATCH])
def test_a_step_reads_nothing_back(name: str, negatives: int) -> None:
    method = methods()[name].double()
    query, key, *others = make_images(4)
    cut = () if name == "byol" else tuple(image[:negatives] for image in others)
    inputs = as_inputs(query, key, of_key=cut, of_query=cut)
    with Reads() as reads:
        result = method.step(inputs, encode=method.trained, moment=MOMENT)
        result.loss.backward()
    assert reads.seen == []
    assert all(p.grad is not None for p in method.trained.parameters())
