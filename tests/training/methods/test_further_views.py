"""Further queries and local crops of MoCo v2 and SimCLR: the loss against a slow reference."""

from dataclasses import replace
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
)
from training.config.derived import declared_views
from training.config.pretrain import PretrainConfig
from training.core.distributed import batch_permutation
from training.methods.byol.settings import BYOLConfig
from training.methods.interface import Method, ProjectedBackbone, unit_rows
from training.methods.losses import info_nce, nt_xent
from training.methods.moco.method import MoCoV2
from training.methods.moco.settings import MoCoConfig
from training.methods.simclr.method import SimCLR
from training.methods.simclr.settings import SimCLRConfig
from training.views.inputs import EncoderInputs
from training.views.settings import ViewConfig

WEIGHT, TEMPERATURE = 0.3, 0.4
COMMON: dict[str, Any] = {
    "embedding_dim": 4,
    "batch_norm_group": GROUP,
    "temperature": TEMPERATURE,
    "hard_negatives": 0,
    "queries": 2,
    "local_weight": WEIGHT,
}
SIMCLR = SimCLRConfig(**COMMON)
MOCO = MoCoConfig(**COMMON, queue_size=24, key_momentum=0.9)


def inputs_for(*, local: int = 2) -> EncoderInputs:
    query, key, more, *crops = make_images(5)
    inputs = as_inputs(query, key)
    small = {f"local-{i}": crop[..., :5, :5] for i, crop in enumerate(crops[:local])}
    return inputs._replace(views=inputs.views | {"query-1": more} | small)


def embedded(encoder: ProjectedBackbone, images: Tensor, head: nn.Module) -> Tensor:
    groups = images.split(GROUP)
    return torch.cat([unit_rows(head(encoder.backbone(group))) for group in groups])


def shuffled(encoder: ProjectedBackbone, images: Tensor) -> Tensor:
    order = batch_permutation(BATCH, seed=1, step=STEP, branch=0)
    return embedded(encoder, images[order], encoder.head)[torch.argsort(order)]


def new(kind: str) -> Method:
    size: dict[str, Any] = {"batch_size": BATCH, "seed": 1}
    if kind == "simclr":
        return SimCLR(SIMCLR, small_backbone(), **size).double()
    return MoCoV2(MOCO, small_backbone(), **size).double()


@pytest.mark.parametrize("local", [0, 2])
@pytest.mark.parametrize("kind", ["simclr", "moco"])
def test_the_loss_is_what_is_written(kind: str, local: int) -> None:
    method, reference, inputs = new(kind), new(kind), inputs_for(local=local)
    result = method.step(inputs, encode=method.trained, moment=MOMENT)
    result.loss.backward()
    views = inputs.views
    if isinstance(reference, SimCLR):
        encoder = reference.encoder
        key = shuffled(encoder, views["key"])
    else:
        assert isinstance(reference, MoCoV2)
        encoder, queue = reference.query_encoder, reference.queue.keys.clone()
        with torch.no_grad():
            for old, fast in zip(
                reference.key_encoder.parameters(), encoder.parameters(), strict=True
            ):
                old.mul_(0.9).add_(fast, alpha=0.1)
            key = shuffled(reference.key_encoder, views["key"])

    def loss_of(name: str) -> Tensor:
        rows = embedded(encoder, views[name], encoder.head)
        if kind == "simclr":
            return nt_xent(rows, key, temperature=TEMPERATURE)[0]
        return info_nce(rows, key, queue, temperature=TEMPERATURE)[0]

    expected = (loss_of("query") + loss_of("query-1")) / 2
    if local:
        of_crops = (loss_of("local-0") + loss_of("local-1")) / 2
        expected = (1 - WEIGHT) * expected + WEIGHT * of_crops
    torch.testing.assert_close(result.loss, expected)
    expected.backward()
    for ours, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def scenarios() -> dict[str, Scenario]:
    return {kind: (new(kind), inputs_for()) for kind in ("simclr", "moco")}


def test_ranks_give_the_loss_and_gradients_of_one_process(tmp_path: Path) -> None:
    assert_ranks_are_one_process(scenarios, 2, tmp_path / "ranks")


def run_with(**changes: Any) -> PretrainConfig:  # noqa: ANN401
    views = ViewConfig(size=32, grid=4, local=2, local_size=16)
    config = PretrainConfig(shards=Path("shards"), out=Path("out"), views=views, method=MOCO)
    return replace(config, **changes)


def test_what_is_declared() -> None:
    *_, first, second = declared_views(run_with())
    assert (first.name, second.name) == ("local-0", "local-1")
    assert (first.crop.cut.size, first.crop.cut.grid) == (16, 2)
    assert first.crop.cut.crop_scale == (0.05, 0.3)
    names = [view.name for view in declared_views(run_with())]
    assert names == ["query", "key", "query-1", "local-0", "local-1"]


def test_a_method_without_local_crops_refuses_them() -> None:
    with pytest.raises(InputError, match=r"views.local 2: method byol takes no local crops"):
        declared_views(run_with(method=BYOLConfig()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"local": -1}, "must not be negative"),
        ({"local": 1, "local_size": 12}, "not a multiple of a patch's side, 8 px"),
        ({"local_scale": (0.0, 0.3)}, "must rise within"),
    ],
)
def test_local_crops_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ViewConfig(size=32, grid=4, **changes)
