"""What a training sees: order, flips, targets."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import InputError
from tests.training.evaluate.detection.cases import HEIGHT, NAMES, WIDTH, drawn, write_coco
from training.evaluate.detection import batches as module
from training.evaluate.detection.boxes import open_boxes
from training.evaluate.detection.readers import BoxSet
from training.evaluate.detection.train import (
    Sample,
    flipped,
    image_of,
    plain_batches,
    target_of,
    training_batches,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> BoxSet:
    return open_boxes(write_coco(tmp_path_factory.mktemp("coco"), drawn(5), masks=True))


def samples_of(images: BoxSet, *, seed: int = 0) -> list[Sample]:
    batches = training_batches(images, steps=10, batch_size=3, with_masks=True, seed=seed)
    return [sample for batch in batches for sample in batch]


def test_boxes_lie_on_the_objects_flipped_or_not(images: BoxSet) -> None:
    objects = 0
    for image, target in samples_of(images):
        assert image.shape == (3, HEIGHT, WIDTH)
        bright = image.amax(dim=0) > 100
        covered = torch.zeros_like(bright)
        for box, label, mask in zip(
            *(target[k] for k in ("boxes", "labels", "masks")), strict=True
        ):
            x0, y0, x1, y1 = box.int().tolist()
            inside = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
            inside[y0:y1, x0:x1] = 1
            assert torch.equal(mask, inside)
            covered |= inside.bool()
            red = image[0, y0:y1, x0:x1].float().mean() > 200
            assert label == 1 + NAMES.index("square" if red else "bar")
            objects += 1
        assert torch.equal(bright, covered)
    assert objects > 30


def test_passes_are_whole_shuffled_and_seeded(
    images: BoxSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = [image.numpy().tobytes() for image, _ in samples_of(images)]
    monkeypatch.setattr(module, "NUM_THREADS", 1)
    assert order == [image.numpy().tobytes() for image, _ in samples_of(images)]
    assert order != [image.numpy().tobytes() for image, _ in samples_of(images, seed=1)]
    plain = [image for batch in plain_batches(images, batch_size=2) for image, _ in batch]
    number_of = {one.numpy().tobytes(): (number, False) for number, one in enumerate(plain)}
    number_of |= {one.flip(-1).numpy().tobytes(): (n, True) for n, one in enumerate(plain)}
    drawn_items = [number_of[one] for one in order]
    passes = [tuple(n for n, _ in drawn_items[first : first + 5]) for first in range(0, 30, 5)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert len(set(passes)) > 1
    assert {flip for _, flip in drawn_items} == {False, True}


def test_a_flip_by_hand() -> None:
    image = torch.arange(3 * 2 * 4, dtype=torch.uint8).view(3, 2, 4)
    target = {"boxes": torch.tensor([[0.0, 0.5, 1.0, 2.0]]), "labels": torch.tensor([1])}
    mirrored, moved = flipped(image, target)
    assert mirrored[0, 0].tolist() == [3, 2, 1, 0]
    assert moved["boxes"].tolist() == [[3.0, 0.5, 4.0, 2.0]]


def test_ignored_objects_are_not_learned(images: BoxSet) -> None:
    picture = images.pictures[1]
    first, second = picture.boxes
    for boxes in ((replace(first, ignored=True), second), ()):
        target = target_of(replace(picture, boxes=boxes), NAMES, with_masks=True)
        count = len(boxes) // 2
        assert target["labels"].tolist() == [1 + NAMES.index(second.name)] * count
        assert target["boxes"].shape == (count, 4)
        assert target["masks"].shape == (count, HEIGHT, WIDTH)


def test_bad_images_and_masks(images: BoxSet, tmp_path: Path) -> None:
    picture = images.pictures[0]
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(picture.file.read_bytes()[:60])
    with pytest.raises(InputError, match=r"damaged.png: .*move it and its boxes away"):
        image_of(replace(picture, file=damaged))

    def mask_of(outline: object) -> torch.Tensor:
        box = replace(picture.boxes[0], outline=outline)
        return target_of(replace(picture, boxes=(box,)), NAMES, with_masks=True)["masks"][0]

    for outline, message in (
        ([[1, 2]], "a mask cannot be read"),
        ({"size": [3, 3], "counts": [9]}, "not to one of 48 x 64"),
        ("round", "a mask cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            mask_of(outline)
    mask = mask_of({"size": [HEIGHT, WIDTH], "counts": [HEIGHT, HEIGHT, HEIGHT * (WIDTH - 2)]})
    assert mask[:, 1].all(), "runs go down the columns"
    assert mask.sum() == HEIGHT
