"""The anchor: importance against its closed form, its gradient, and sums over stages."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.runs import run, small_run, weights
from tests.shard_sets import write_shard_set
from training.config.settings import KnnConfig
from training.config.stages import AnchorConfig
from training.engine import anchor
from training.engine.anchor import ANCHOR_FILE, Anchor, importances
from training.evaluate.encoders import load_encoders
from training.evaluate.labelled import hashed_subset, open_labelled

CPU = torch.device("cpu")


def views(count: int, size: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(count, 1, 3, size, size, generator=generator).unbind())


def test_the_importance_in_a_linear_model_is_its_closed_form() -> None:
    """h = W x + b: d ||h||^2 / dW = 2 h x^T and d / db = 2 h, absolute and summed over images."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(27, 4))
    (weight, bias), count = importances(network, views(5))
    layer = network[1]
    assert isinstance(layer, nn.Linear)
    expected_w, expected_b = torch.zeros(4, 27), torch.zeros(4)
    for view in views(5):
        x_27 = view.flatten()
        h_4 = layer.weight @ x_27 + layer.bias
        expected_w += (2 * h_4[:, None] * x_27).abs().detach()
        expected_b += (2 * h_4).abs().detach()
    assert count == 5
    torch.testing.assert_close(weight, expected_w)
    torch.testing.assert_close(bias, expected_b)
    assert all(p.grad is None for p in network.parameters())


def test_batch_norm_uses_its_running_statistics_and_keeps_them() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    network.train()
    network(torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    together, _ = importances(network, views(6, size=8))
    alone = [importances(network, [view])[0] for view in views(6, size=8)]
    for number, whole in enumerate(together):  # an image's importance depends on no other image
        torch.testing.assert_close(whole, torch.stack([one[number] for one in alone]).sum(dim=0))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())


def test_of_unit_rows_every_importance_would_be_zero() -> None:
    class Unit(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return functional.normalize(super().forward(x.flatten(1)), dim=1)

    found, _ = importances(Unit(27, 4), views(3))
    assert max(float(one.max()) for one in found) < 1e-5


@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_the_pull_adds_the_gradient_of_the_penalty(strength: float) -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = ((3, 4), (5,))
    weights: list[Tensor] = [
        nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes
    ]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    importance = [torch.rand(shape, generator=generator) for shape in shapes]
    before = [torch.randn(shape, generator=generator) for shape in shapes]
    parts = zip(weights, start, importance, strict=True)
    penalty = torch.stack([(strength * k * (w - s) ** 2).sum() for w, s, k in parts]).sum()
    expected = torch.autograd.grad(penalty, weights)
    for weight, gradient in zip(weights, before, strict=True):
        weight.grad = gradient.clone()
    torch.testing.assert_close(
        Anchor(weights, start, importance, strength).pull(), penalty.detach()
    )
    for weight, gradient, added in zip(weights, before, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient + added)


def test_importance_is_summed_over_stages_and_an_anchor_holds_weights_near_their_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchor, "NUM_IMAGES", 5)
    for number, name in enumerate("abc"):
        write_shard_set(tmp_path / name, num_images=16, first_number=100 * number)
    mas, free = AnchorConfig(kind="mas", strength=1e-3), AnchorConfig()
    first = small_run(tmp_path / "a", tmp_path / "first", epochs=1, knn=KnnConfig())
    second = replace(
        first, shards=tmp_path / "b", out=tmp_path / "second", start_from=first.out, anchor=mas
    )
    third = replace(second, shards=tmp_path / "c", out=tmp_path / "third", start_from=second.out)
    for config in (first, second, third):
        assert run(config).finished
    assert not (first.out / ANCHOR_FILE).exists()
    two, three = (torch.load(config.out / ANCHOR_FILE)["importance"] for config in (second, third))
    (second.out / ANCHOR_FILE).unlink()  # what the third one measures by itself
    alone = replace(third, out=tmp_path / "alone")
    assert run(alone).finished
    own = torch.load(alone.out / ANCHOR_FILE)["importance"]
    (encoder,) = load_encoders([str(second.out)], encoder="query", seed=0, device=CPU)
    images = open_labelled(tmp_path / "b")  # of the run before, as an evaluation sees them
    numbers = hashed_subset(images.shard_sizes, 5)
    seen = encoder.prepare(encoder.centre_views(images, numbers, grid=1)[0])
    sums, _ = importances(encoder.network, seen.split(1))
    names = [f"network.{name}" for name, _ in encoder.network.named_parameters()]
    by_hand = dict(zip(names, sums, strict=True))
    assert by_hand.keys() == three.keys()
    for name, value in three.items():
        torch.testing.assert_close(value, own[name] + two[name])
        torch.testing.assert_close(own[name], by_hand[name] / 5, rtol=1e-3, atol=1e-6)
    moved = {}
    for name, held in (("none", free), ("l2", AnchorConfig(kind="l2", strength=20.0))):
        config = replace(second, out=tmp_path / name, anchor=held, epochs=4)
        run(config)
        states = [backbone_of(first.out), backbone_of(config.out)]
        moved[name] = sum(float((states[1][k] - v).square().sum()) for k, v in states[0].items())
    assert moved["l2"] < 0.5 * moved["none"]


def test_under_fp16_the_pull_meets_gradients_of_their_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the penalty would lose against a scaled loss: its scale is up to 65536."""
    write_shard_set(tmp_path / "a", num_images=16)
    first = small_run(tmp_path / "a", tmp_path / "first", epochs=1, knn=KnnConfig())
    run(first)
    held = replace(first, start_from=first.out, anchor=AnchorConfig(kind="l2"), epochs=4)
    seen: list[float] = []
    sizes: dict[str, list[float]] = {}

    def pull(self: Anchor) -> Tensor:
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        seen.append(float(torch.stack(torch._foreach_norm(gradients)).norm()))
        return torch.zeros(())

    monkeypatch.setattr(Anchor, "pull", pull)
    for precision in ("fp32", "fp16"):
        run(replace(held, out=tmp_path / precision, precision=precision))
        sizes[precision] = [seen.pop(0) for _ in list(seen)]
    finite = [size for size in sizes["fp16"] if math.isfinite(size)]
    assert len(finite) > 3  # the first scales are too large for fp16
    assert max(finite) < 10 * max(sizes["fp32"])
    assert min(finite) > 0.1 * min(sizes["fp32"])


def backbone_of(out: Path) -> dict[str, Tensor]:
    """The parameters of the backbone in the newest checkpoint."""
    own = {n: v for n, v in weights(out).items() if n.startswith("query_encoder.backbone")}
    return {name: v for name, v in own.items() if "running" not in name and v.is_floating_point()}
