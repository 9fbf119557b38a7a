"""Budgets of MACs, which channels stay, and what the protocol says of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.backbone.channels import inner_channels
from pipeline.backbone.folder import weights_digest
from pipeline.core.errors import InputError
from tests.training.evaluate.cases import case_of, encoder_of, extractor_of, folders
from training.evaluate.channels import channels, costs_of, importance, milliseconds, narrowed
from training.evaluate.channels_config import ChannelsConfig
from training.evaluate.encoders import UNTRAINED, NamedEncoder, calibrate
from training.evaluate.frozen import knn
from training.evaluate.labelled import LabelledImages, hashed_subset
from training.evaluate.results import read_predictions


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return folders(tmp_path_factory.mktemp("images"), 24, seed=0)


def with_dead_channels(encoder: NamedEncoder) -> dict[str, Tensor]:
    """Kill a random half of every block's channels; returns the others' numbers, rising."""
    torch.manual_seed(1)
    alive = {}
    for one in inner_channels(encoder.network, "resnet18"):
        order = torch.randperm(one.width)
        norm = encoder.network.get_submodule(one.norm)
        with torch.no_grad():
            norm.get_parameter("weight")[order[: one.width // 2]] = 0
        alive[one.made_by] = order[one.width // 2 :].sort().values
    return alive


def counted(network: nn.Module, size: int) -> int:
    """By torch's own counter, which watches operators instead of layers; two FLOPs are a MAC."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops()) // 2


def test_resnet18_at_224_px() -> None:
    costs = costs_of(encoder_of(size=224))
    half = costs.at_density(0.5)
    assert costs.of(costs.at_density(1))["macs"] / 1e9 == pytest.approx(1.814, abs=5e-4)
    assert costs.of(dict.fromkeys(half, 0))["share"] == pytest.approx(0.076, abs=5e-4)
    assert costs.of(half)["share"] == pytest.approx(0.538, abs=5e-4)
    assert sorted(half.values()) == [32, 32, 64, 64, 128, 128, 256, 256]
    for budget in (1.0, 0.75, 0.5, 0.35, 0.2):
        share = costs.of(costs.within(budget))["share"]
        assert budget - 0.02 < share <= budget
    message = r"a budget of 0\.05: a share of 0\.0757 .* is fixed, .* 0\.0827: wanted that or more"
    with pytest.raises(InputError, match=message):
        costs.within(0.05)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "convnext_tiny"])
def test_macs_are_those_of_torch(architecture: str, images: LabelledImages) -> None:
    whole = encoder_of(architecture, size=64)
    costs = costs_of(whole)
    scores = importance(whole, images, costs.inner, 4)
    made = narrowed(whole, images, costs, 0.6, scores, num_images=4)
    expected = costs.of(costs.within(0.6))
    assert counted(made.network, 64) == expected["macs"]
    assert counted(whole.network, 64) == costs.of(costs.within(1))["macs"]
    assert made.info.provenance["channels"] == expected
    assert made.info.channels == costs.within(0.6)
    again = costs_of(made)
    assert again.of(again.within(1))["macs"] == expected["macs"], "a narrower one can be narrowed"


@pytest.mark.parametrize("architecture", ["resnet18", "convnext_tiny"])
def test_scores_by_hand(architecture: str, images: LabelledImages) -> None:
    """The second one's activations are below 0, too, and it has no batch norm."""
    encoder, seen = encoder_of(architecture), list[Tensor]()
    network, scale = encoder.network, torch.ones(())
    if architecture == "resnet18":
        scale = network.get_parameter("layer1.0.bn1.weight").detach().uniform_(-2, 2).abs()
    inner = inner_channels(network, architecture)
    scores = importance(encoder, images, inner, 20)  # in batches of 8, 8 and 4
    taker = network.get_submodule(inner[0].taken_by)
    taker.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        numbers = hashed_subset(images.shard_sizes, 20).tolist()
        encoder(torch.cat([views for views, _ in encoder.batches(images, numbers)]))
    (x,) = seen
    x = x.movedim(1 if architecture == "resnet18" else -1, 0).double().flatten(1)
    expected = scale * x.abs().mean(dim=1)
    torch.testing.assert_close(scores[inner[0].made_by], expected, rtol=1e-4, atol=1e-6)


def test_dead_channels_go_first_and_random_ones_cost_more(images: LabelledImages) -> None:
    whole = encoder_of()
    alive = with_dead_channels(whole)
    calibrate(whole, images, 24)  # otherwise some channels are never above 0 here
    expected = whole.features(images)[0]
    costs = costs_of(whole)
    scores = importance(whole, images, costs.inner, 24)
    half = costs.of(costs.at_density(0.5))["share"]
    for module in whole.network.modules():  # what is estimated again does not depend on it
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    weight = whole.network.get_parameter("layer1.0.conv1.weight").clone()
    made = narrowed(whole, images, costs, half, scores, num_images=24)
    kept = made.network.get_parameter("layer1.0.conv1.weight")
    assert torch.equal(kept, weight[alive["layer1.0.conv1"]])
    assert torch.equal(whole.network.get_parameter("layer1.0.conv1.weight"), weight)
    torch.manual_seed(2)
    drawn = {name: torch.rand(len(score)) for name, score in scores.items()}
    random = narrowed(whole, images, costs, half, drawn, num_images=24)
    ranked, control = (encoder.features(images)[0] for encoder in (made, random))
    scale = float(expected.abs().max())
    torch.testing.assert_close(ranked, expected, rtol=0, atol=1e-5 * scale)
    assert float((control - expected).abs().max()) > 0.05 * scale


def test_the_protocol(
    images: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ChannelsConfig(budgets=(1.0, 0.5), images=24, rounds=3)
    case = case_of(nn.Identity(), images, images, k=5, results=tmp_path, channels=config)
    case.encoder = encoder_of()
    found = {(r.checkpoint, r.column): r for r in channels(case)}
    rows = ("GMAC", "ms", "knn", "linear")
    assert list(found) == [
        *((checkpoint, name) for checkpoint in ("made", "made 0.5") for name in rows),
        *(("made 0.5 random", name) for name in ("knn", "linear")),
    ]
    assert found["made", "knn"] == knn(case)[0], "budget 1 is the network itself"
    total, half = (found[name, "GMAC"] for name in ("made", "made 0.5"))
    assert 0.48 < half.more["share"] <= 0.5
    assert half.more["macs"] == half.figure * 1e9 == pytest.approx(total.figure * 5e8, rel=0.04)
    time = found["made 0.5", "ms"]
    assert time.interval is not None
    assert 0 < time.interval[0] <= time.figure <= time.interval[1]
    digests = {p.result.row: p.result.checkpoint_digest for p in read_predictions(tmp_path)}
    assert set(digests) == {"made", "made 0.5", "made 0.5 random"}
    assert len(set(digests.values())) == 3, "other weights"
    times = np.array([[4.0, 5, 2], [8, 9, 2], [4, 5, 3]])  # of each round: whole, 1, 0.5
    monkeypatch.setattr("training.evaluate.channels.milliseconds", lambda *_: times)
    again = {(r.checkpoint, r.column): r for r in channels(case)}
    assert (again["made 0.5", "ms"].figure, again["made 0.5", "ms"].more["share"]) == (2, 0.5)
    assert all(again[key] == r for key, r in found.items() if key[1] != "ms")


def test_budget_one_to_the_last_bit_and_digests(images: LabelledImages) -> None:
    whole = encoder_of()
    costs = costs_of(whole)
    scores = importance(whole, images, costs.inner, 8)
    same = narrowed(whole, images, costs, 1.0, scores, num_images=8)
    assert torch.equal(same.features(images)[0], whole.features(images)[0])
    made = narrowed(whole, images, costs, 0.5, scores, num_images=8)
    assert made.digest == weights_digest(made.network.state_dict())
    seeded = replace(whole, kind=UNTRAINED, digest="random:3")
    assert narrowed(seeded, images, costs, 0.5, scores, num_images=8).digest == "random:3"


def test_times_are_taken_in_turns_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a network moves by its number, and by 100 more in the first round."""
    calls: list[tuple[int, int]] = []
    clock = [0.0]
    monkeypatch.setattr("time.process_time", lambda: clock[0])

    class Slow(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def forward(self, x_BCHW: Tensor) -> Tensor:
            calls.append((self.number, torch.get_num_threads()))
            clock[0] += self.number + 100 * (len(calls) <= 3)
            return x_BCHW.mean(dim=(2, 3))

    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    times_RN = milliseconds([extractor_of(Slow(number)) for number in (0, 1, 9)], 4)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    turns = [0, 1, 9, 1, 9, 0, 9, 0, 1, 0, 1, 9, 1, 9, 0]
    assert calls == [(number, 1) for number in turns]
    assert times_RN.tolist() == [[0, 1000, 9000]] * 4
