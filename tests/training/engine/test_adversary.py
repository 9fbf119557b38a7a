"""The generator of learned masks against an encoder: what it learns, and what a run keeps of it."""

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

from pipeline.core.errors import InputError
from pipeline.saliency.mask_generator import load_generator
from pipeline.saliency.registry import parse_saliency_source
from tests.ranks import in_ranks
from tests.runs import StopsAfter, numbers, run, small_run, weights
from tests.shard_sets import write_shard_set
from tests.training.methods.small import MOMENT, small_inputs, small_method
from training.config.derived import declared_views
from training.config.pretrain import PretrainConfig
from training.config.settings import KnnConfig, OptimConfig
from training.core.checkpoint import CheckpointStore
from training.encoders.settings import EncoderConfig
from training.engine.adversary import Adversary
from training.methods.byol.settings import BYOLConfig
from training.methods.interface import StepResult
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import HardNegativeConfig
from training.methods.simclr.settings import SimCLRConfig
from training.randomness.draws import sample_seeds
from training.record.metrics import read_metrics
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


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_images=42, shard_images=14)
    return root


def config_of(shards: Path, out: Path, **changes: Any) -> PretrainConfig:  # noqa: ANN401
    """Two epochs of five steps; the mix rises over the second half of the first one."""
    learned = LearnedConfig(start_epoch=0.5, ramp_epochs=0.5, **changes.pop("learned", {}))
    branch = changes.pop("branch", "query")
    masks = MaskConfig(strategy="learned", count="matched", learned=learned, branch=branch)
    made = {"masks": masks, "knn": KnnConfig(every_epochs=1), "precision": "fp32", **changes}
    return small_run(shards, out, **made)


def adversary_of(out: Path) -> dict[str, Any]:
    checkpoint = CheckpointStore(out / "checkpoints").latest()
    assert checkpoint is not None
    found: dict[str, Any] = torch.load(checkpoint / "state.pt", weights_only=True)["adversary"]
    return found


def test_a_killed_run_equals_one_that_was_not_and_its_generator_is_a_saliency_source(
    shards: Path, tmp_path: Path
) -> None:
    whole, halved = (config_of(shards, tmp_path / name) for name in ("whole", "halved"))
    assert run(whole).finished
    assert run(halved, StopsAfter(4)).step == 4
    assert adversary_of(halved.out)["mix"] == pytest.approx(0.5 * (4 / 5 - 0.5) / 0.5)
    assert run(halved).finished
    assert numbers(halved.out) == numbers(whole.out)
    ours, theirs = weights(halved.out), weights(whole.out)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    one, other = adversary_of(halved.out), adversary_of(whole.out)
    assert all(torch.equal(one["generator"][n], v) for n, v in other["generator"].items())
    moments = (list(state["optimizer"]["state"].values()) for state in (one, other))
    assert all(torch.equal(a["exp_avg_sq"], b["exp_avg_sq"]) for a, b in zip(*moments, strict=True))
    assert float(other["generator"]["out.weight"].abs().max()) > 0

    trained = [e for e in read_metrics(whole.out) if e["kind"] == "train"]
    assert [e["mask_mix"] for e in trained] == pytest.approx([0, 0.1, 0.3, 0.5, 0.5, 0.5])
    measured = {"learned_loss", "learned_minus_random", "logits_between_images"}
    assert all(measured | {"query_masked_foreground"} <= e.keys() for e in trained)
    assert load_generator(whole.out).provenance["step"] == 10
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    for place in ("", "generator.pth", "checkpoints/step-00000005"):
        source = parse_saliency_source(f"learned:weights={whole.out / place}").pinned()
        assert source([image])[0].shape == (4, 6)
    assert (whole.out / "contact_sheets" / "step-00000005.png").stat().st_size > 1000


def test_in_a_small_run_the_loss_is_greater_than_under_random_masks_of_equal_size(
    tmp_path: Path,
) -> None:
    """Over the second half of 30 steps."""
    write_shard_set(tmp_path / "shards", num_images=64, shard_images=16)
    learned, method = LearnedConfig(lr=0.01), SimCLRConfig(batch_norm_group=8)
    masks = MaskConfig(strategy="learned", query_ratio=(0.3, 0.5), learned=learned)
    made: dict[str, Any] = {"batch_size": 32, "epochs": 15, "optim": OptimConfig(lr=0.03)}
    made |= {"masks": masks, "method": method, "knn": KnnConfig(every_epochs=100)}
    run(small_run(tmp_path / "shards", tmp_path / "run", precision="fp32", **made))
    trained = [e for e in numbers(tmp_path / "run") if e["kind"] == "train"]
    late = [entry for entry in trained if float(entry["step"]) > 15]
    assert np.mean([float(entry["learned_minus_random"]) for entry in late]) > 0
    assert np.mean([float(entry["logits_between_images"]) for entry in late]) > 0.1


def test_a_compiled_encoder_in_bfloat16_has_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, run without generated code, as in `tests/training/encoders/test_encoder.py`."""
    monkeypatch.setattr("training.encoders.encoder.COMPILER", "eager")
    config, found = METHODS[1], []
    inputs = small_inputs(config)
    views = {name: image.float() for name, image in inputs.views.items()}
    for compiled in (False, True):
        method = small_method(config).float()
        method.backbone.compiled = compiled
        method.backbone._compile()
        query = views["query"].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            share = inputs._replace(views=views)
            kept = method.step(share, encode=method.trained, moment=MOMENT).kept
            loss = method.adversary_loss(query, kept)
        found.append((loss.detach(), *torch.autograd.grad(loss, query)))
    torch.testing.assert_close(found[1], found[0])
    assert float(found[0][1].abs().max()) > 0


def test_slots_train_in_bfloat16_without_comparison(shards: Path, tmp_path: Path) -> None:
    learned, out = {"kind": "slots", "compare": False}, tmp_path / "run"
    changes: dict[str, Any] = {"precision": "bf16", "fill": "blur", "knn": KnnConfig()}
    values = run(config_of(shards, out, learned=learned, **changes), StopsAfter(2)).values
    assert all(np.isfinite(value) for value in values.values())
    assert "learned_minus_random" not in values
    state = adversary_of(out)["generator"]
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert len(state["out.bias"]) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fill": "high_pass"}, "strategy learned replaces whole patches, but fill high_pass has"),
        ({"method": BYOLConfig()}, "learned: method byol offers no adversary_loss.*simclr or moco"),
        ({"encoder": EncoderConfig(stem="small_partial")}, "encoder.stem partial, which sees no"),
        ({"branch": "both"}, "learned changes the query only: masks.branch both must be query"),
        ({"learned": {"kind": "top"}}, "unknown masks.learned.kind 'top': choose from topk, slots"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        declared_views(config_of(Path("s"), Path("o"), **changes))
    assert "\n" not in str(caught.value)


def test_masks_that_are_the_same_for_every_image_are_warned_of(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = "training.engine.adversary.between_images"
    for name, value in (("alike", 0.09), ("apart", 0.11)):
        monkeypatch.setattr(share, lambda _, value=value: torch.tensor(value))
        config = config_of(shards, tmp_path / name, knn=KnnConfig())
        run(config, StopsAfter(8))
    told = [e for e in read_metrics(tmp_path / "alike") if e["kind"] == "warning"]
    assert [e["step"] for e in told] == [6], "once, and not before the ramp's end"
    assert "same for every image: 9% of the variance" in str(told[0]["message"])
    assert "warning" not in {e["kind"] for e in read_metrics(tmp_path / "apart")}
