"""The generator of learned masks in a file, and as a saliency source."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.images.filters import normalise
from pipeline.images.pixel_format import IMAGENET_MEAN
from pipeline.saliency.interface import to_grid
from pipeline.saliency.learned import Learned
from pipeline.saliency.mask_generator import MaskGenerator, load_generator, write_generator
from pipeline.saliency.registry import described_saliency_source, parse_saliency_source

PATCH, VIEW = 8, 32


def written(folder: Path, seed: int = 0, **network: Any) -> MaskGenerator:  # noqa: ANN401
    """A generator with random weights, in a run's place for it."""
    torch.manual_seed(seed)
    made = {"patch": PATCH, "view_size": VIEW, "width": 32, "sees_hidden": False, **network}
    generator = MaskGenerator(**made)
    torch.nn.init.normal_(generator.out.weight)
    write_generator(folder, generator, {"step": 7})
    return generator


def picture(seed: int, height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_generator_is_read_as_it_was_written(tmp_path: Path) -> None:
    generator = written(tmp_path, num_maps=3, sees_hidden=True)
    view, hidden = torch.randn(2, 3, VIEW, VIEW), torch.zeros(2, 4, 4)
    for place in ("", "generator.pth"):
        read = load_generator(tmp_path / place)
        assert torch.equal(read(view), generator(view))
        assert (read.patch, read.num_maps, read.provenance) == (8, 3, {"step": 7})
        assert not read.training
    assert torch.equal(read(view, hidden), read(view))
    hidden[0, 1, 2] = 1
    changed = (read(view, hidden) != read(view)).flatten(1).any(dim=1)
    assert changed.tolist() == [True, False]


def test_a_map_is_the_stretched_logits_of_the_whole_image(tmp_path: Path) -> None:
    generator, image = written(tmp_path, num_maps=2), picture(0)
    source = Learned(weights=str(tmp_path), slot=1)
    (found,) = source([image])
    assert found.shape == (4, 6)
    scaled = cv2.resize(image, (48, 32), interpolation=cv2.INTER_AREA)
    view = normalise(torch.from_numpy(scaled).permute(2, 0, 1)[None].float() / 255)
    logits = generator(view)[0, 1].detach().numpy()
    expected = (logits - logits.min()) / (logits.max() - logits.min())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert parse_saliency_source(f"learned:weights={tmp_path},side=64")([image])[0].shape == (8, 12)
    assert source([np.full((9, 9, 3), 80, np.uint8)])[0].tolist() == [[0.5]]
    assert [m.shape for m in source([picture(1, 1, 300), picture(2, 300, 1)])] == [(4, 16), (16, 4)]


def test_the_mean_map_is_the_same_for_every_image(tmp_path: Path) -> None:
    written(tmp_path)
    folder, images = tmp_path / "images", [picture(n, 40, 40 + 8 * n) for n in range(3)]
    folder.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    (folder / "broken.png").write_bytes(b"no image")
    own = Learned(weights=str(tmp_path))
    mean = parse_saliency_source(f"learned:weights={tmp_path},mean_of={folder}").pinned()
    first, second = mean([picture(8), picture(9)])
    assert np.array_equal(first, second)
    expected = np.mean([to_grid(saliency, 56) for saliency in own(images)], axis=0)
    np.testing.assert_allclose(first, (expected - expected.min()) / np.ptp(expected), atol=1e-6)
    with pytest.raises(InputError, match="no image in mean_of="):
        Learned(weights=str(tmp_path), mean_of=str(tmp_path / "none"))([picture(0)])


def test_a_source_is_bound_to_its_weights(tmp_path: Path) -> None:
    written(tmp_path)
    source = Learned(weights=str(tmp_path)).pinned()
    said = source.parameters()
    assert (said["weights"], said["side"], said["slot"]) == (tmp_path.name, VIEW, 0)
    assert said["weights_digest"] == source.weights_digest
    with pytest.raises(InputError, match="cannot be computed anew from dataset"):
        described_saliency_source({"source": "learned", **said})
    other = tmp_path / "other"
    written(other, seed=1)
    with pytest.raises(InputError, match=r"have digest .*, this run was planned with"):
        Learned(weights=str(other), weights_digest=source.weights_digest)([picture(0)])
    with pytest.raises(InputError, match="has 1 maps: no slot=1"):
        Learned(weights=str(tmp_path), slot=1).pinned()
    with pytest.raises(InputError, match="learned:weights=RUN"):
        Learned()
    with pytest.raises(InputError, match="wants a side to 2048, got -1"):
        Learned(weights="x", side=-1)


def test_what_is_no_generator_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no mask generator at .*/none: wanted a run or checkp"):
        load_generator(tmp_path / "none")
    written(tmp_path)
    file = tmp_path / "generator.pth"
    whole, content = file.read_bytes(), torch.load(file, weights_only=True)
    assert content["mean"] == IMAGENET_MEAN
    torch.save({"conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(InputError, match=r"generator\.pth cannot be read: it is of another kind"):
        load_generator(tmp_path)
    torch.save(content | {"network": content["network"] | {"width": 64}}, file)
    with pytest.raises(InputError, match=r"generator\.pth cannot be read: .*MaskGenerator"):
        load_generator(tmp_path)
    file.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"the mask generator .* cannot be read"):
        load_generator(tmp_path)
