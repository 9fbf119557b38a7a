"""What a run measures of its encoder, beside the same by hand, and what it leaves alone."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from pipeline.core.errors import DamagedSample, InputError
from pipeline.images.preprocessing import Preprocessing
from pipeline.shardset.manifest import load_dataset_info
from tests.runs import small_run
from tests.shard_sets import damage_images, write_images, write_shard_set
from tests.training.evaluate.cases import CPU, SIZE, Colours, Normed, extractor_of, left_alone
from training.config.settings import HeldoutConfig
from training.data.order import EpochOrder, num_used
from training.encoders.encoder import Backbone, build_backbone
from training.evaluate import checks
from training.evaluate.frozen import knn_predict
from training.evaluate.labelled import open_labelled, stored_images
from training.methods.interface import PlainEmbedder, ProjectedBackbone
from training.methods.registry import find_method
from training.methods.simclr.settings import SimCLRConfig
from training.views.fills import fill_named

FILL = fill_named("high_pass")


def test_the_figures_that_a_run_asks_for(tmp_path: Path) -> None:
    for name, number in (("train", 0), ("val", 100), ("held", 200)):
        write_shard_set(tmp_path / name, num_images=12, first_number=number)
    held = HeldoutConfig(shards=tmp_path / "held")
    config = small_run(tmp_path / "train", tmp_path / "out", heldout=held)
    torch.manual_seed(0)
    backbone = build_backbone(config.encoder)
    method = find_method(config.method.name)(config.method, backbone, batch_size=8, seed=0)

    def checked(step: int) -> dict[str, float]:
        return checks.run_checks(config, method, fill=FILL, device=CPU, autocast=None, step=step)

    with left_alone(method):
        first = checked(0)
        later = checked(1)
    assert first.keys() == later.keys() > {"knn", "knn_images", "heldout_loss", "checked_images"}
    assert first["heldout_loss"] != later["heldout_loss"], "random weights are calibrated"
    seen = Preprocessing(view_size=32, resize=37)
    extractor = extractor_of(method.embedder.backbone, seen, prepare=FILL.prepare)
    train, val = (open_labelled(tmp_path / name) for name in ("train", "val"))
    features, labels = extractor.features(val)
    predicted = knn_predict(*extractor.features(train), features, num_classes=3, k=5)
    expected = 100 * float((predicted == labels).double().mean())
    assert (later["knn"], later["knn_images"]) == pytest.approx((expected, 12))
    config = replace(config, heldout=HeldoutConfig(), knn=replace(config.knn, val_shards=None))
    assert not checked(1).keys() & {"knn", "knn_images", "heldout_loss"}


def test_object_sensitivity_by_hand(tmp_path: Path) -> None:
    """A view whose top quarter is a red object before blue, and one without an object."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[..., 2] = 240
    image[:4] = (200, 40, 0)
    saliency = np.zeros((8, 8), np.float32)
    saliency[:2] = 1
    flat = np.full((8, 8), 0.5, np.float32)
    write_images(tmp_path, [image, image], [0, 0], saliency=[saliency, flat])
    images, extractor = stored_images(tmp_path), extractor_of(Colours(), batch_size=2)
    found = checks.object_sensitivity(extractor, images, np.arange(2), grid=4)

    # The centre 16 x 16 of the picture enlarged to 18 x 18 shows the rows from 0.9 on.
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = extractor.centre_views(images, np.arange(1), grid=4)[0][0]
    whole = x.mean(dim=(1, 2))
    rows = torch.arange(SIZE) < 4
    no_background, no_object = (
        torch.where(kept[None, :, None], x, whole[:, None, None]).mean(dim=(1, 2))
        for kept in (rows, ~rows)
    )
    features = [(colour - mean) / std for colour in (whole, no_background, no_object)]
    cosines = [F.cosine_similarity(features[0], other, dim=0) for other in features[1:]]
    # Sums of 256 pixels in float32, in another order.
    assert found == pytest.approx(float(cosines[0] - cosines[1]), abs=1e-5)
    assert abs(found) > 0.01
    assert np.isnan(checks.object_sensitivity(extractor, images, np.array([1]), grid=4))


def test_instance_accuracy() -> None:
    rows = F.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    assert checks.instance_accuracy(rows, rows) == 100
    assert checks.instance_accuracy(rows, rows.roll(1, 0)) == 0
    assert checks.instance_accuracy(rows, torch.cat((rows[:3], rows[3:].flip(0)))) == 60


def measure(root: Path, *, skip_damaged: bool = False) -> dict[str, float]:
    torch.manual_seed(0)
    whole = ProjectedBackbone(Backbone(Normed(), 3), SimCLRConfig(batch_norm_group=4))
    embedder = PlainEmbedder(whole)
    embedder.backbone.network.get_submodule("dropout").eval()
    extractor = extractor_of(embedder.backbone, skip_damaged=skip_damaged)
    with left_alone(embedder):
        return checks.label_free_figures(embedder, extractor, stored_images(root), grid=4)


def test_an_encoder_in_training_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "NUM_PAIRS", 8)
    write_shard_set(tmp_path, num_images=20, labels=False)
    figures = measure(tmp_path)
    assert figures == measure(tmp_path)
    assert figures["checked_images"] == 7  # every third of twenty
    assert 0 <= figures["checked_instance_accuracy"] <= 100
    assert 0 < figures["checked_embedding_spread"] <= 1
    assert abs(figures["object_sensitivity"]) <= 2
    # Damaged images are skipped where the run skips them.
    damage_images(tmp_path, 0, 3)
    with pytest.raises(DamagedSample, match=r"sample picture-.* in .*shard-000000.tar is dam"):
        measure(tmp_path)
    assert measure(tmp_path, skip_damaged=True)["checked_images"] == 6  # every third of 17


class Encoder(Normed):
    """Unit rows."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return F.normalize(super().forward(x_BCHW), dim=1)


def held_out(encoder: nn.Module, config: HeldoutConfig) -> float:
    assert config.shards is not None
    seen = Preprocessing(view_size=32, resize=37)
    images = stored_images(config.shards)
    return checks.heldout_loss(extractor_of(encoder, seen), images, config)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("heldout")
    write_shard_set(root, num_images=20, labels=False)
    return root


def test_the_loss_is_that_of_each_query_against_its_key_and_the_bank() -> None:
    pairs = F.normalize(torch.randn(7, 2, 5, generator=torch.manual_seed(0)), dim=2)
    config = HeldoutConfig(bank_size=3, temperature=0.2)
    losses = []
    for query, key in pairs[3:]:
        positive = math.exp(float(query @ key) / 0.2)
        bank = sum(math.exp(float(query @ pairs[k, 1]) / 0.2) for k in range(3))
        losses.append(-math.log(positive / (positive + bank)))
    assert checks.bank_loss(pairs, config) == pytest.approx(sum(losses) / 4, rel=1e-5)
    again = checks.bank_loss(pairs, config, pairs[3:5])  # other pairs, the same bank
    assert again == pytest.approx(sum(losses[:2]) / 2, rel=1e-5)


@pytest.mark.parametrize("fraction", [0.3, 0.6, 1.0])
def test_seen_images_are_the_same_whatever_share_of_them_is_used(
    shards: Path, tmp_path: Path, fraction: float
) -> None:
    """Against the bank of the held-out images."""
    write_shard_set(tmp_path, num_images=5, labels=False, first_number=900)
    encoder, seen = Encoder().eval(), Preprocessing(view_size=16, resize=18)
    settings = HeldoutConfig(shards=tmp_path, seen=True)
    config = replace(small_run(shards, tmp_path), data_fraction=fraction, heldout=settings)
    held, train = stored_images(tmp_path), stored_images(shards)
    found = [
        checks.heldout_figures(extractor_of(encoder, seen), held, train, one)
        for one in (config, replace(config, data_fraction=0.99))
    ]
    assert found[0] == found[1]
    assert found[0].keys() == {"heldout_loss", "seen_loss"}
    assert found[0]["seen_loss"] != found[0]["heldout_loss"]
    plain = replace(config, heldout=replace(settings, seen=False))
    figures = checks.heldout_figures(extractor_of(encoder, seen), held, train, plain)
    assert figures == {"heldout_loss": found[0]["heldout_loss"]}
    used = EpochOrder(train.shard_sizes, seed=0, epoch=0, fraction=fraction)
    own = set(used.sample_ids(0, num_used(load_dataset_info(shards), fraction)).tolist())
    asked: set[int] = set()

    def image(number: int) -> NDArray[np.uint8]:
        asked.add(number)
        return train.image(number)

    spied = replace(train, image=image)
    checks.heldout_figures(extractor_of(encoder, seen), held, spied, config)
    assert asked <= own
    assert len(asked) in (5, 6)  # of every shard its share, rounded up


def test_it_is_the_same_every_time_and_leaves_the_network_as_it_is(shards: Path) -> None:
    encoder = Encoder().train()
    encoder.dropout.eval()
    config = HeldoutConfig(shards=shards, bank_size=8)
    with left_alone(encoder):
        first = held_out(encoder, config)
    torch.manual_seed(5)
    assert held_out(encoder, config) == first
    assert held_out(encoder, replace(config, temperature=0.5)) != first


@pytest.mark.parametrize("ranks", [3, 30])
def test_ranks_share_the_held_out_images(
    shards: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(checks, "bank_loss", lambda pairs, _: seen.append(pairs))
    monkeypatch.setattr(checks, "gather_rows_of_any_number", lambda rows: rows)
    encoder = Encoder().eval()
    held_out(encoder, HeldoutConfig(shards=shards))
    monkeypatch.setattr(checks, "world_size", lambda: ranks)
    for rank in range(ranks):
        monkeypatch.setattr(checks, "rank", lambda rank=rank: rank)
        held_out(encoder, HeldoutConfig(shards=shards))
    whole, *parts = seen
    assert whole.shape == (20, 2, 3)
    if ranks < 20:
        torch.testing.assert_close(torch.cat(parts), whole)
    else:  # more ranks than images: each has all
        assert all(torch.equal(part, whole) for part in parts)


def test_a_network_that_sees_nothing_has_the_loss_of_a_guess(shards: Path) -> None:
    class Same(nn.Module):
        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            return torch.eye(3)[:1].expand(len(images_BCHW), 3)

    # 20 images: never more than half of them make the bank.
    for bank_size, choices in ((8, 9), (1000, 11)):
        config = HeldoutConfig(shards=shards, bank_size=bank_size)
        assert held_out(Same(), config) == pytest.approx(math.log(choices))


def test_shards_that_cannot_be_held_out_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shares 20 images \(.*00.jpg, .*, \.\.\.\) with"):
        checks.check_heldout(shards, HeldoutConfig(shards=shards))
    write_shard_set(tmp_path / "overlap", num_images=6, first_number=18)
    with pytest.raises(InputError, match=r"shares 2 images \(.*18.jpg, .*19.jpg\) with the"):
        checks.check_heldout(shards, HeldoutConfig(shards=tmp_path / "overlap"))
    write_shard_set(tmp_path / "apart", num_images=6, first_number=20)
    checks.check_heldout(shards, HeldoutConfig(shards=tmp_path / "apart"))
    write_shard_set(tmp_path / "few", num_images=3, first_number=500)
    with pytest.raises(InputError, match="holds 3 images: wanted at least 4"):
        checks.check_heldout(shards, HeldoutConfig(shards=tmp_path / "few"))
