from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.errors import DamagedSample, InputError
from pipeline.images.preprocessing import Preprocess, Preprocessing
from tests.shard_sets import damage_images, write_shard_set
from tests.training.evaluate.cases import Colours, extractor_of, folders, left_alone
from training.encoders.encoder import build_backbone
from training.encoders.settings import EncoderConfig
from training.evaluate.features import FeatureExtractor
from training.evaluate.labelled import open_labelled


def batches(num: int = 3, size: int = 4) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for first in range(0, num * size, size):
        views = torch.randint(256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8)
        yield views, torch.arange(first, first + size)


@pytest.fixture
def backbone() -> FeatureExtractor:
    torch.manual_seed(0)
    config = EncoderConfig(architecture="resnet18", stem="small", max_pool=False)
    return extractor_of(build_backbone(config), prepare=lambda image01: image01 - 0.5)


def test_evaluation_sees_what_the_export_makes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (400, 301, 3), dtype=np.uint8)
    wanted = Preprocessing(view_size=64, resize=73)
    view_SS3 = extractor_of(Colours(), wanted).view(image)
    assert view_SS3.flags.c_contiguous
    exported_CSS = Preprocess(wanted).view(torch.from_numpy(image).permute(2, 0, 1))
    assert np.array_equal(view_SS3 / np.float32(255), exported_CSS.permute(1, 2, 0).numpy())


def test_batches_are_all_views_in_order(tmp_path: Path) -> None:
    images = folders(tmp_path, 31, seed=1)
    extractor = extractor_of(Colours(), batch_size=7, num_threads=2)
    found = list(extractor.batches(images, range(31)))
    assert [len(views) for views, _ in found] == [7, 7, 7, 7, 3]
    assert torch.cat([labels for _, labels in found]).tolist() == images.labels().tolist()
    views = torch.cat([views for views, _ in found]).permute(0, 2, 3, 1).numpy()
    for number, view in enumerate(views):
        assert np.array_equal(view, extractor.view(images.image(number)))


def test_features_equal_a_plain_loop(backbone: FeatureExtractor) -> None:
    features, labels = backbone.extract(batches())
    assert (features.shape, features.dtype) == ((12, 512), torch.float32)
    assert labels.tolist() == list(range(12))
    backbone.network.eval()
    with torch.no_grad():
        expected = torch.cat([backbone.network(views / 255 - 0.5) for views, _ in batches()])
    # Channels last: other kernels, another order of sums.
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    probe = nn.Linear(512, 2)
    probe(features).sum().backward()
    assert probe.weight.grad is not None, "features may take part in a gradient"


def test_the_network_is_left_as_it_was(backbone: FeatureExtractor) -> None:
    backbone.network.train()
    backbone.network.get_submodule("network.layer1").eval()  # which a plain train() would lose

    def failing() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from batches(2)
        raise OSError("a shard went away")

    with left_alone(backbone.network), pytest.raises(OSError, match="went away"):
        backbone.extract(failing())


def test_bfloat16_is_near_and_the_preparation_stays_exact(backbone: FeatureExtractor) -> None:
    seen = []

    def filtered(image01_BCHW: torch.Tensor) -> torch.Tensor:
        kernel = torch.full((3, 1, 3, 3), 1 / 9)
        x_BCHW = image01_BCHW - nn.functional.conv2d(image01_BCHW, kernel, padding=1, groups=3)
        seen.append(x_BCHW.dtype)
        return x_BCHW

    exact, half = (
        extractor_of(backbone.network, prepare=filtered, autocast_dtype=dtype).extract(batches(1))[
            0
        ]
        for dtype in (None, torch.bfloat16)
    )
    assert seen == [torch.float32, torch.float32]
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    # bfloat16 has 8 bits of mantissa; directions are what kNN compares.
    assert float(torch.cosine_similarity(half, exact).min()) > 0.999


def test_images_that_cannot_be_decoded_are_named_or_left_out(tmp_path: Path) -> None:
    write_shard_set(tmp_path, num_images=20)
    damage_images(tmp_path, 0, 3)
    images = open_labelled(tmp_path)
    with pytest.raises(DamagedSample, match=r"picture-000000-\w+ in .*shard-000000.tar is dam"):
        extractor_of(Colours()).features(images)
    _, labels = extractor_of(Colours(), skip_damaged=True).features(images)
    assert labels.tolist() == images.labels()[3:].tolist()


@pytest.mark.parametrize(
    ("prepare", "given", "message"),
    [(None, lambda: [], "no images"), (lambda x: x / 0, lambda: batches(1), "not finite")],
)
def test_bad_input(
    prepare: Callable[[torch.Tensor], torch.Tensor], given: Callable[[], object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        extractor_of(nn.Flatten(), prepare=prepare).extract(given())  # type: ignore[arg-type]
