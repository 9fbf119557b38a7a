"""The generator of learned masks against an encoder: what it learns."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

from tests.ranks import in_ranks
from tests.training.methods.small import MOMENT, small_inputs, small_method
from training.config.derived import declared_views
from training.config.pretrain import PretrainConfig
from training.engine.adversary import Adversary
from training.methods.interface import StepResult
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import HardNegativeConfig
from training.methods.simclr.settings import SimCLRConfig
from training.randomness.draws import sample_seeds
from training.views.fills import UnmaskedView
from training.views.inputs import EncoderInputs
from training.views.learned import LearnedDraws, LearnedMasker
from training.views.settings import LearnedConfig, MaskConfig, ViewConfig

BATCH, GRID, PATCH = 64, 4, 2
SIDE = GRID * PATCH
METHODS = [
    MoCoConfig(queue_size=64, batch_norm_group=2, object_head="both"),
    SimCLRConfig(batch_norm_group=2),
]


class Game:
    """A generator of masks of 4 x 4 patches of 2 px against a method's loss."""

    def __init__(self, method: Any, ratio: float, **learned: Any) -> None:  # noqa: ANN401
        settings = LearnedConfig(start_epoch=0, ramp_epochs=0, mix=1.0, **learned)
        masks = MaskConfig(strategy="learned", query_ratio=(ratio, ratio), learned=settings)
        cut = ViewConfig(size=SIDE, grid=GRID)
        config = PretrainConfig(shards=Path("s"), out=Path("o"), masks=masks, views=cut)
        view, self.method = declared_views(config)[0], method
        self.adversary = Adversary(config, view.fill, torch.device("cpu"))  # type: ignore[arg-type]
        (self.query,) = self.adversary.bind((view,), MOMENT)

    def draws(self, step: int, rows: slice = slice(BATCH)) -> LearnedDraws:
        assert isinstance(self.query.masker, LearnedMasker)
        seeds = sample_seeds(0, step, np.arange(BATCH))[rows]
        return self.query.masker.draw(seeds, view="query", cut=self.query.crop.cut)

    def masks(self, images: Tensor, step: int) -> Tensor:
        """The masks of a step, [B, N]."""
        assert isinstance(self.query.masker, LearnedMasker)
        return self.query.masker.choose(self.draws(step), images).mask_BN.detach()

    def step(
        self, images: Tensor, step: int, kept: object = None, rows: slice = slice(BATCH)
    ) -> dict[str, Tensor]:
        """A step with some rows of the global batch; returns what was measured."""
        view = UnmaskedView(images, images, lambda: images)
        inputs = EncoderInputs({}, {}, {}, {}, unmasked={"query": view})
        batch: Any = SimpleNamespace(masks={"query": self.draws(step, rows)})
        result = StepResult(torch.zeros(()), {}, {}, kept)
        return self.adversary.step(self.method, self.query, batch, inputs, result, None).metrics


def against(loss: Callable[[Tensor, Any], Tensor]) -> SimpleNamespace:
    return SimpleNamespace(adversary_loss=loss)


@pytest.mark.parametrize("kind", ["topk", "sequential"])
def test_against_a_frozen_linear_encoder_it_hides_the_greatest_contributions(kind: str) -> None:
    """The optimum is known: the patches that contribute most to the score of their view."""
    weight = torch.rand(3, SIDE, SIDE)

    def contributions(images: Tensor) -> Tensor:
        apart = (images - images.mean(dim=(2, 3), keepdim=True)) * weight
        return functional.avg_pool2d(apart.sum(dim=1, keepdim=True), PATCH).flatten(1)

    def images() -> Tensor:
        levels = functional.interpolate(torch.randn(BATCH, 1, GRID, GRID), scale_factor=PATCH)
        return levels + 0.3 * torch.randn(BATCH, 3, SIDE, SIDE)

    method = against(lambda query, _: -(query * weight).sum(dim=(1, 2, 3)).mean())
    game = Game(method, 0.25, kind=kind)
    for step in range(120):
        found = game.step(images(), step)
    x = images()
    hidden = (contributions(x) * game.masks(x, 1000)).sum(dim=1).mean()
    optimum = contributions(x).topk(4, dim=1).values.sum(dim=1).mean()
    assert float(hidden / optimum) > 0.95
    assert float(found["learned_minus_random"]) > 0
    assert float(found["logits_between_images"]) > 0.5


@pytest.mark.parametrize("kind", ["topk", "slots"])
def test_the_one_patch_that_tells_an_image_is_masked(kind: str) -> None:
    """The others are alike in all images. Two slots put it in the same map."""
    codes, projection = torch.randn(1000, 3, PATCH, PATCH), torch.randn(3 * SIDE**2, 24) / 20

    def images() -> tuple[Tensor, Tensor]:
        x, place = 0.1 * torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(GRID**2, (BATCH,))
        own = codes[torch.randint(1000, (BATCH,))]
        for image, number in enumerate(place.tolist()):
            top, left = PATCH * (number // GRID), PATCH * (number % GRID)
            x[image, :, top : top + PATCH, left : left + PATCH] = own[image]
        return x, place

    def loss(query: Tensor, key: Tensor) -> Tensor:
        query, key = (functional.normalize(x.flatten(1) @ projection, dim=1) for x in (query, key))
        return functional.cross_entropy(query @ key.T / 0.2, torch.arange(BATCH))

    more: dict[str, Any] = {"num_slots": 2, "area_penalty": 0.1} if kind == "slots" else {}
    game = Game(against(loss), 1 / 16, kind=kind, **more)
    for step in range(100):
        x, place = images()
        game.step(x, step, kept=x)
    mask, slot = game.masks(x, 1000), game.draws(1000).slot_B
    hit = mask.gather(1, place[:, None]).squeeze(1)
    held = hit if kind == "topk" else torch.where(hit > 0, slot, 1 - slot).float()
    assert kind == "slots" or set(mask.sum(dim=1).tolist()) == {1}
    assert max(float(held.mean()), (kind == "slots") - float(held.mean())) >= 0.9


@pytest.mark.parametrize("config", METHODS)
def test_the_loss_for_the_generator_is_the_plain_one_and_changes_nothing(
    config: HardNegativeConfig,
) -> None:
    """Of the same queries the loss that a step without hard negatives has, old queue included."""
    alone = replace(config, object_head="off", hard_negatives=0)
    plain, method = small_method(alone), small_method(config)
    method.load_state_dict(plain.state_dict(), strict=False)
    inputs = small_inputs(config)
    expected = plain.step(small_inputs(alone), encode=plain.trained, moment=MOMENT).loss
    kept = method.step(inputs, encode=method.trained, moment=MOMENT).kept
    before = {name: value.clone() for name, value in method.state_dict().items()}
    query = inputs.views["query"].clone().requires_grad_()
    loss = method.adversary_loss(query, kept)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, query)
    assert bool(gradient.flatten(1).any(dim=1).all())
    assert all(p.grad is None for p in method.parameters())
    for name, value in method.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, before[name]), name


def played(rank: int = 0, ranks: int = 1) -> list[dict[str, Tensor]]:
    """The generator after three steps against each method, in float64, and what was measured."""
    found = []
    for config in METHODS:
        method, inputs = small_method(config), small_inputs(config)
        game = Game(method, 0.5, kind="sequential")
        game.adversary.generator.double()
        views = {name: image.chunk(ranks)[rank] for name, image in inputs.views.items()}
        own = len(views["query"])
        for step in range(3):
            share = inputs._replace(views=views)
            kept = method.step(share, encode=method.trained, moment=MOMENT).kept
            rows = slice(rank * own, (rank + 1) * own)
            metrics = game.step(views["query"], step, kept, rows)
        state = game.adversary.generator.state_dict()
        assert float(state["out.weight"].abs().max()) > 1e-3
        found.append({name: value.detach().clone() for name, value in (state | metrics).items()})
    return found


def _in_rank(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "USE_LIBUV": "0"}
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.save(played(rank, 2), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    in_ranks(_in_rank, 2, str(tmp_path))
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for number, alone in enumerate(played()):
        first, second = (states[number] for states in ranks)
        for name, value in alone.items():
            mean = (first[name] + second[name]) / 2
            torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-6, msg=name)
            assert name.startswith("learned") or torch.equal(first[name], second[name]), name
