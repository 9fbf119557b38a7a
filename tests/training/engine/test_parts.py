"""A batch in parts: the numbers of the whole batch, for every method, with less memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.core.errors import InputError
from tests.runs import numbers, run, small_run
from tests.shard_sets import write_shard_set
from tests.training.methods.small import BATCH, MOMENT, small_inputs, small_method
from training.config.settings import KnnConfig, OptimConfig
from training.engine.parts import InParts
from training.engine.preflight import preflight
from training.methods.byol.settings import BYOLConfig
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import MethodConfig
from training.methods.simclr.settings import SimCLRConfig
from training.methods.vicreg.settings import VICRegConfig

SMALL: dict[str, Any] = {"embedding_dim": 6, "batch_norm_group": 2}
METHODS: list[MethodConfig] = [
    MoCoConfig(queue_size=16, object_head="both", **SMALL),
    SimCLRConfig(negative_gradient=True, **SMALL),
    BYOLConfig(head_width=8, predictor_width=8, **SMALL),
    VICRegConfig(head_width=8, **SMALL),
]


def step(config: MethodConfig, num_parts: int) -> tuple[dict[str, Tensor], int]:
    """Loss, gradients and buffers of a step, and the bytes that its forward pass keeps."""
    method = small_method(config)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    encode = InParts(method.trained, num_parts) if num_parts > 1 else method.trained
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = method.step(small_inputs(config), encode=encode, moment=MOMENT)
    result.loss.backward()
    found = {name: p.grad for name, p in method.trained.named_parameters() if p.grad is not None}
    assert len(found) == len(list(method.trained.parameters()))
    buffers = {n: b for n, b in method.named_buffers() if not n.endswith("num_batches_tracked")}
    return {"loss": result.loss.detach(), **found, **buffers}, sum(kept.values())


@pytest.mark.parametrize("config", METHODS, ids=lambda config: config.name)
@pytest.mark.parametrize("num_parts", [2, 4])
def test_loss_gradients_and_statistics_are_those_of_the_whole_batch(
    config: MethodConfig, num_parts: int
) -> None:
    """In float64: only the order of sums over parts differs."""
    assert BATCH % (2 * num_parts) == 0
    whole, memory = step(config, 1)
    parts, less = step(config, num_parts)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)
    assert less < memory / 2


def test_a_run_in_parts_has_the_record_of_a_plain_one(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "train", num_images=42, shard_images=14)
    made: dict[str, Any] = {"epochs": 1, "knn": KnnConfig(), "log_every_steps": 1}
    made |= {"precision": "fp32", "optim": OptimConfig(lr=1e-3)}
    config = small_run(tmp_path / "train", tmp_path / "whole", **made)
    in_parts = replace(config, out=tmp_path / "parts", accumulate=2)
    run(config)
    run(in_parts)
    ours, theirs = (
        [entry for entry in numbers(out) if entry["kind"] == "train"]
        for out in (in_parts.out, config.out)
    )
    assert [entry["samples_seen"] for entry in ours] == [entry["samples_seen"] for entry in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    with pytest.raises(InputError, match=r"accumulate 4 leaves 2 images of a rank's 8 to a part"):
        preflight(replace(config, out=tmp_path / "no", accumulate=4), 1)
