"""The generator of learned masks against an encoder: what it learns, and what a run keeps of it."""

import json
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
from training.config.settings import CheckpointConfig, KnnConfig, OptimConfig
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
from training.views.fills import UnmaskedView, fill_named
from training.views.inputs import EncoderInputs
from training.views.learned import LearnedMasker
from training.views.settings import LearnedConfig, MaskConfig, ViewConfig
from training.views.spec import ViewSettings, with_generator

CPU = torch.device("cpu")
BATCH, GRID, PATCH = 64, 4, 2
SIDE = GRID * PATCH
Loss = Callable[[Tensor, Any], Tensor]


class Game:
    """A generator of 4 x 4 patches of 2 px against a loss of prepared queries."""

    def __init__(self, loss: Loss, ratio: float, **learned: Any) -> None:  # noqa: ANN401
        masks = MaskConfig(
            strategy="learned", query_ratio=(ratio, ratio), learned=LearnedConfig(**learned)
        )
        cut = ViewConfig(size=SIDE, grid=GRID)
        config = PretrainConfig(shards=Path("s"), out=Path("o"), masks=masks, views=cut)
        fill, self.method = fill_named("mean"), SimpleNamespace(adversary_loss=loss)
        self.adversary = Adversary(config, fill, CPU)
        view = ViewSettings(cut=cut, masks=masks, fill=fill).query()
        (self.query,) = with_generator((view,), self.adversary.generator, 1.0)

    def masks(self, images: Tensor, step: int) -> Tensor:
        """The masks of a step, [B, N]."""
        assert isinstance(self.query.masker, LearnedMasker)
        return self.query.masker.choose(self._draws(images, step), images).mask_BN.detach()

    def _draws(self, images: Tensor, step: int) -> Any:  # noqa: ANN401
        seeds = sample_seeds(0, step, np.arange(len(images)))
        assert self.query.masker is not None
        return self.query.masker.draw(seeds, view="query", cut=self.query.crop.cut)

    def step(self, images: Tensor, step: int, kept: Any = None) -> StepResult:  # noqa: ANN401
        view = UnmaskedView(images, images, lambda: images)
        inputs = EncoderInputs({}, {}, {}, {}, unmasked={"query": view})
        batch = SimpleNamespace(masks={"query": self._draws(images, step)})
        result = StepResult(torch.zeros(()), {}, {}, kept)
        return self.adversary.step(self.method, self.query, batch, inputs, result, None)  # type: ignore[arg-type]


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

    game = Game(lambda query, _: -(query * weight).sum(dim=(1, 2, 3)).mean(), 0.25, kind=kind)
    for step in range(80):
        found = game.step(images(), step).metrics
    x = images()
    hidden = (contributions(x) * game.masks(x, 1000)).sum(dim=1).mean()
    optimum = contributions(x).topk(4, dim=1).values.sum(dim=1).mean()
    assert float(hidden / optimum) > 0.95
    assert float(found["learned_minus_random"]) > 0
    assert float(found["logits_between_images"]) > 0.5


@pytest.mark.parametrize("kind", ["topk", "slots"])
def test_the_one_patch_that_tells_an_image_is_masked(kind: str) -> None:
    """The others are alike in all images. Slots hide it in the map that they put it in."""
    codes, projection = torch.randn(1000, 3, PATCH, PATCH), torch.randn(3 * SIDE**2, 24) / 20

    def images() -> tuple[Tensor, Tensor]:
        x, place = 0.1 * torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(GRID**2, (BATCH,))
        own = codes[torch.randint(1000, (BATCH,))]
        for image, (row, column) in enumerate(zip(place // GRID, place % GRID, strict=True)):
            top, left = PATCH * int(row), PATCH * int(column)
            x[image, :, top : top + PATCH, left : left + PATCH] = own[image]
        return x, place

    def loss(query: Tensor, key: Tensor) -> Tensor:
        query, key = (functional.normalize(x.flatten(1) @ projection, dim=1) for x in (query, key))
        return functional.cross_entropy(query @ key.T / 0.2, torch.arange(BATCH))

    more: dict[str, Any] = {"num_slots": 2, "area_penalty": 0.1} if kind == "slots" else {}
    game = Game(loss, 1 / 16, kind=kind, **more)
    for step in range(100):
        x, place = images()
        game.step(x, step, kept=x)
    x, place = images()
    mask = game.masks(x, 1000)
    hit = mask.gather(1, place[:, None]).squeeze(1)
    if kind == "topk":
        assert set(mask.sum(dim=1).tolist()) == {1}
        assert float(hit.mean()) >= 0.9
    else:  # the same map holds the patch in nearly all images
        assert isinstance(game.query.masker, LearnedMasker)
        slot = game._draws(x, 1000).slot_B
        held = torch.where(hit > 0, slot, 1 - slot).float().mean()
        assert max(float(held), 1 - float(held)) >= 0.9


@pytest.mark.parametrize(
    "config",
    [
        MoCoConfig(queue_size=64, batch_norm_group=4, object_head="both"),
        SimCLRConfig(batch_norm_group=4, hard_negatives=1, rho=2.0),
    ],
)
def test_the_loss_for_the_generator_is_the_plain_one_and_changes_nothing(
    config: HardNegativeConfig,
) -> None:
    """Of the same queries the loss that a step without hard negatives has, old queue included."""
    inputs = small_inputs(config)
    plain = small_method(replace(config, object_head="off", hard_negatives=0))
    method = small_method(config)
    method.load_state_dict(plain.state_dict(), strict=False)
    expected = plain.step(inputs, encode=plain.trained, moment=MOMENT).loss
    kept = method.step(inputs, encode=method.trained, moment=MOMENT).kept
    before = {name: value.clone() for name, value in method.state_dict().items()}
    query = inputs.views["query"].clone().requires_grad_()
    loss = method.adversary_loss(query, kept)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, query)
    assert float(gradient.abs().min()) > 0
    assert all(p.grad is None for p in method.parameters())
    for name, value in method.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, before[name]), name


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_images=42, shard_images=14)
    return root


def config_of(shards: Path, out: Path, **changes: Any) -> PretrainConfig:  # noqa: ANN401
    """Two epochs of five steps; the mix rises from the middle of the first one on."""
    learned = LearnedConfig(start_epoch=0.5, ramp_epochs=0.5, **changes.pop("learned", {}))
    masks = MaskConfig(
        strategy="learned",
        query_ratio=(0.2, 0.5),
        count="matched",
        learned=learned,
        branch=changes.pop("branch", "query"),
    )
    made = {"masks": masks, "knn": KnnConfig(), "precision": "fp32", **changes}
    return small_run(shards, out, **made)


def generator_of(out: Path) -> dict[str, Any]:
    checkpoint = CheckpointStore(out / "checkpoints").latest()
    assert checkpoint is not None
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    found: dict[str, Any] = state["adversary"]
    return found


def test_a_killed_run_equals_one_that_was_not_and_its_generator_is_a_saliency_source(
    shards: Path, tmp_path: Path
) -> None:
    whole, halved = (config_of(shards, tmp_path / name) for name in ("whole", "halved"))
    assert run(whole).finished
    assert run(halved, StopsAfter(4)).step == 4
    assert generator_of(halved.out)["mix"] == pytest.approx(0.5 * (4 / 5 - 0.5) / 0.5)
    assert run(halved).finished
    assert numbers(halved.out) == numbers(whole.out)
    ours, theirs = weights(halved.out), weights(whole.out)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    one, other = generator_of(halved.out), generator_of(whole.out)
    assert all(torch.equal(one["generator"][n], v) for n, v in other["generator"].items())
    moments = (list(state["optimizer"]["state"].values()) for state in (one, other))
    assert all(torch.equal(a["exp_avg_sq"], b["exp_avg_sq"]) for a, b in zip(*moments, strict=True))

    trained = [e for e in read_metrics(whole.out) if e["kind"] == "train"]
    assert [e["mask_mix"] for e in trained] == pytest.approx([0, 0.1, 0.3, 0.5, 0.5, 0.5])
    measured = {"learned_loss", "learned_minus_random", "logits_between_images"}
    assert all(measured | {"query_masked_foreground"} <= e.keys() for e in trained)
    assert float(other["generator"]["out.weight"].abs().max()) > 0
    generator = load_generator(whole.out)
    assert generator.provenance["step"] == 10
    for place in (
        whole.out,
        whole.out / "generator.pth",
        whole.out / "checkpoints" / "step-00000010",
    ):
        source = parse_saliency_source(f"learned:weights={place}").pinned()
        image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
        assert source([image])[0].shape == (4, 6)
    sheets = [whole.out / "contact_sheet.png", *(whole.out / "contact_sheets").iterdir()]
    assert all(sheet.stat().st_size > 1000 for sheet in sheets)


def _in_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    run(_of_ranks(folder, "two"))
    dist.destroy_process_group()


def _of_ranks(folder: Path, out: str) -> PretrainConfig:
    """Small steps, as in `tests/training/test_ranks.py`; of the generator large ones."""
    optim, method = OptimConfig(lr=1e-5), SimCLRConfig(batch_norm_group=4)
    made: dict[str, Any] = {"optim": optim, "method": method, "log_every_steps": 1, "epochs": 1}
    return config_of(folder / "shards", folder / out, **made)


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "shards", num_images=42, shard_images=14)
    assert run(_of_ranks(tmp_path, "one")).finished
    in_ranks(_in_rank, 2, tmp_path)
    one, two = (generator_of(tmp_path / name)["generator"] for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-4)
    entries = ([e for e in numbers(tmp_path / n) if e["kind"] == "train"] for n in ("one", "two"))
    for ours, theirs in zip(*entries, strict=True):
        for name in ours.keys() - {"samples_seen", "kind"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), name
    assert float(ours["mask_mix"]) > 0


def test_compiled_and_in_bfloat16_it_trains_in_every_kind(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.encoders.encoder.COMPILER", "eager")
    encoder = EncoderConfig(architecture="resnet18", stem="small", compile=True)
    kept = CheckpointConfig(keep=1)
    for kind in ("slots", "sequential"):
        changes: dict[str, Any] = {"learned": {"kind": kind, "compare": False}, "epochs": 1}
        changes |= {"encoder": encoder, "precision": "bf16", "checkpoint": kept, "fill": "blur"}
        values = run(config_of(shards, tmp_path / kind, **changes)).values
        assert all(np.isfinite(value) for value in values.values())
        assert "learned_minus_random" not in values
        state = generator_of(tmp_path / kind)["generator"]
        assert {value.dtype for value in state.values()} == {torch.float32}
        assert len(state["out.bias"]) == (4 if kind == "slots" else 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fill": "high_pass"}, "strategy learned replaces whole patches, but fill high_pass has"),
        ({"method": BYOLConfig()}, "learned: method byol offers no adversary_loss.*simclr or moco"),
        ({"encoder": EncoderConfig(stem="small_partial")}, "encoder.stem partial, which sees no"),
        ({"branch": "both"}, "learned changes the query only: masks.branch both must"),
        ({"learned": {"kind": "top"}}, "unknown masks.learned.kind 'top': choose from topk, slots"),
        ({"learned": {"lr": 0.0}}, r"masks\.learned\.lr 0\.0 must be above 0"),
        ({"learned": {"width": 40}}, r"masks\.learned\.width 40 must be a multiple of 32"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        declared_views(config_of(Path("s"), Path("o"), **changes))
    assert "\n" not in str(caught.value)


def test_masks_that_are_the_same_for_every_image_are_warned_of(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = 0.09
    monkeypatch.setattr("training.engine.adversary.between_images", lambda _: torch.tensor(share))
    config = config_of(shards, tmp_path / "run", epochs=2)
    run(config, StopsAfter(8))
    told = [e for e in read_metrics(config.out) if e["kind"] == "warning"]
    assert [e["step"] for e in told] == [6], "once, and not before the ramp's end"
    assert "nearly the same for every image: 9% of the variance" in str(told[0]["message"])
    share = 0.11
    run(replace(config, out=tmp_path / "other"), StopsAfter(8))
    assert "warning" not in {e["kind"] for e in read_metrics(tmp_path / "other")}
    assert (
        json.loads((config.out / "config.json").read_text())["masks"]["learned"]["kind"] == "topk"
    )
