from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.preparation import Preprocess, Preprocessing
from training.encoders.encoder import EncoderConfig, build_backbone
from training.evaluate.features import evaluation_view, extract_features

CPU = torch.device("cpu")
CONFIG = EncoderConfig(architecture="resnet18", stem="small", max_pool=False)


def batches(num: int = 3, size: int = 4) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for first in range(0, num * size, size):
        views = torch.randint(256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8)
        yield views, torch.arange(first, first + size)


def centred(image01_BCHW: torch.Tensor) -> torch.Tensor:
    return image01_BCHW - 0.5


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (73, 73), (40, 31), (64, 900)])
def test_view_size(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    view = evaluation_view(image, 64)
    assert view.shape == (64, 64, 3)
    assert view.dtype == np.uint8
    assert view.flags.c_contiguous


def test_view_of_the_right_size_is_the_centre() -> None:
    image = np.random.default_rng(0).integers(0, 256, (73, 93, 3), dtype=np.uint8)
    assert np.array_equal(evaluation_view(image, 64), image[4:68, 14:78])


def test_view_shrinks_by_area() -> None:
    image = np.random.default_rng(0).integers(0, 256, (146, 146, 3), dtype=np.uint8)
    blocks = image.reshape(73, 2, 73, 2, 3).astype(np.float64).mean(axis=(1, 3))
    # Area means of 2 x 2 pixels; a half may be rounded either way.
    assert np.abs(evaluation_view(image, 64) - blocks[4:68, 4:68]).max() <= 0.5


def test_view_agrees_with_the_exports_preparation() -> None:
    """The other resampling filter sees the same place: within rounding on a linear ramp."""
    rows, columns = np.mgrid[0:300, 0:400]
    image = np.stack([rows * 0.6, columns * 0.5, rows * 0.3 + columns * 0.3], 2).astype(np.uint8)
    as_is = Preprocessing(view_size=64, resize=73, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    expected = Preprocess(as_is)(torch.from_numpy(image).permute(2, 0, 1)) * 255
    got = torch.from_numpy(evaluation_view(image, 64)).permute(2, 0, 1)
    # A pixel of the view spans about four, so a shift by one source pixel would show as 0.6.
    assert float((got - expected).abs().max()) <= 0.6


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
