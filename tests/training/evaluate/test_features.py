from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from pipeline.core.errors import InputError
from pipeline.images.filters import IMAGENET_STD
from pipeline.images.preprocessing import HighPass, Preprocess, Preprocessing
from training.encoders.encoder import build_backbone
from training.encoders.settings import EncoderConfig
from training.evaluate.features import evaluation_view, extract_features

CPU = torch.device("cpu")
CONFIG = EncoderConfig(architecture="resnet18", stem="small", max_pool=False)

SHAPES = [(300, 400), (400, 301), (73, 73), (40, 31), (64, 900), (901, 37)]
"""Shrinking, growing, neither; odd aspects. The view is 64 px of a shorter side of 73."""


def batches(num: int = 3, size: int = 4) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for first in range(0, num * size, size):
        views = torch.randint(256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8)
        yield views, torch.arange(first, first + size)


def centred(image01_BCHW: torch.Tensor) -> torch.Tensor:
    return image01_BCHW - 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_view_size(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    view = evaluation_view(image, 64)
    assert view.shape == (64, 64, 3)
    assert view.dtype == np.uint8
    assert view.flags.c_contiguous


def test_view_of_the_right_size_is_the_centre() -> None:
    image = np.random.default_rng(0).integers(0, 256, (73, 93, 3), dtype=np.uint8)
    assert np.array_equal(evaluation_view(image, 64), image[4:68, 14:78])


HIGH_PASS = HighPass(kernel=5, sigma=1.4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("filtered", [None, HIGH_PASS])
def test_evaluation_and_export_see_the_same_pixels(
    shape: tuple[int, int], filtered: HighPass | None
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    exported = Preprocess(Preprocessing(view_size=64, resize=73, high_pass=filtered))
    view01_CSS = torch.from_numpy(evaluation_view(image, 64, 73)).permute(2, 0, 1).float() / 255
    evaluated = exported.prepare(view01_CSS[None])[0]
    assert torch.equal(evaluated, exported(torch.from_numpy(image).permute(2, 0, 1)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("filtered", [None, HIGH_PASS])
def test_evaluation_sees_what_torchvision_makes(
    shape: tuple[int, int], filtered: HighPass | None
) -> None:
    """What a person does who reads the export's card: Pillow or a tensor, the same transforms."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image_CHW = torch.from_numpy(image).permute(2, 0, 1)
    transform = v2.Compose([v2.Resize(73, antialias=True), v2.CenterCrop(64)])
    view_SS3 = evaluation_view(image, 64, 73)
    from_pillow = np.asarray(transform(Image.fromarray(image))).astype(int)
    # Rows and columns are rounded to 8 bits in turn, on either side.
    assert np.abs(view_SS3 - from_pillow).max() <= 1
    assert np.abs(view_SS3 - from_pillow).mean() < 0.15
    in_8_bit = transform(image_CHW).permute(1, 2, 0).numpy()
    assert np.array_equal(view_SS3, in_8_bit)
    prepare = Preprocess(Preprocessing(view_size=64, resize=73, high_pass=filtered)).prepare
    exact = transform(image_CHW.float() / 255)
    seen = torch.from_numpy(view_SS3).permute(2, 0, 1).float() / 255
    std_C11 = torch.tensor(IMAGENET_STD)[:, None, None]
    gap = (prepare(seen[None]) - prepare(exact[None]))[0] * std_C11
    # In levels of 255. Roundings move a pixel by one at most, and so the mean of its neighbours,
    # which the filter takes away.
    assert float(gap.abs().max()) * 255 <= (1 if filtered is None else 2) + 1e-3


def test_features_equal_a_plain_loop() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(CONFIG)
    features, labels = extract_features(backbone, batches(), device=CPU, prepare=centred)
    assert features.shape == (12, 512)
    assert features.dtype == torch.float32
    assert labels.tolist() == list(range(12))
    backbone.eval()
    with torch.no_grad():
        expected = torch.cat([backbone(centred(v.float() / 255)) for v, _ in batches()])
    # Channels last: other kernels, another order of sums.
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_the_network_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(CONFIG)
    backbone.network.get_submodule("layer1").eval()  # a mode that a plain train() would lose
    modes = [module.training for module in backbone.modules()]
    before = {k: (v.clone(), v.stride()) for k, v in backbone.state_dict().items()}
    random_state = torch.get_rng_state()
    extract_features(backbone, batches(), device=CPU, prepare=centred)
    assert [module.training for module in backbone.modules()] == modes
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert value.stride() == before[name][1]
    assert torch.equal(torch.get_rng_state(), random_state)

    def failing() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from batches(1)
        raise OSError("a shard went away")

    with pytest.raises(OSError, match="went away"):
        extract_features(backbone, failing(), device=CPU, prepare=centred)
    assert [module.training for module in backbone.modules()] == modes


def test_features_may_take_part_in_a_gradient() -> None:
    features, _ = extract_features(build_backbone(CONFIG), batches(1), device=CPU, prepare=centred)
    probe = nn.Linear(512, 2)
    probe(features).sum().backward()
    assert probe.weight.grad is not None


def test_bfloat16_is_near_and_the_preparation_stays_exact() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(CONFIG)
    seen = []

    def filtered(image01_BCHW: torch.Tensor) -> torch.Tensor:
        kernel = torch.full((3, 1, 3, 3), 1 / 9)
        x_BCHW = image01_BCHW - nn.functional.conv2d(image01_BCHW, kernel, padding=1, groups=3)
        seen.append(x_BCHW.dtype)
        return x_BCHW

    exact, _ = extract_features(backbone, batches(1), device=CPU, prepare=filtered)
    half, _ = extract_features(
        backbone, batches(1), device=CPU, prepare=filtered, autocast_dtype=torch.bfloat16
    )
    assert seen == [torch.float32, torch.float32]
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    # bfloat16 has 8 bits of mantissa; directions are what kNN compares.
    assert float(torch.cosine_similarity(half, exact).min()) > 0.999


def test_bad_input() -> None:
    with pytest.raises(InputError, match="no images"):
        extract_features(nn.Flatten(), [], device=CPU, prepare=centred)
    with pytest.raises(InputError, match="not finite"):
        extract_features(nn.Flatten(), batches(1), device=CPU, prepare=lambda x: x / 0)
