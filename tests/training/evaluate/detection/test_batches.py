"""What a training sees: order, flips, targets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from tests.training.evaluate.detection.cases import HEIGHT, WIDTH, drawn, write_coco
from training.evaluate.detection.annotations import BoxSet
from training.evaluate.detection.batches import (
    Sample,
    flipped,
    image_of,
    plain_batches,
    target_of,
    training_batches,
)
from training.evaluate.detection.box_sets import open_boxes

LABELS = {"bar": 1, "square": 2}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> BoxSet:
    return open_boxes(write_coco(tmp_path_factory.mktemp("coco"), drawn(5), masks=True))


def batches_of(images: BoxSet, *, seed: int = 0, threads: int = 2) -> list[list[Sample]]:
    return list(
        training_batches(
            images, steps=10, batch_size=3, with_masks=True, seed=seed, num_threads=threads
        )
    )


def test_boxes_lie_on_the_objects_flipped_or_not(images: BoxSet) -> None:
    objects = 0
    for image, target in (sample for batch in batches_of(images) for sample in batch):
        assert image.shape == (3, HEIGHT, WIDTH)
        bright = image.amax(dim=0) > 100
        covered = torch.zeros_like(bright)
        for box, label, mask in zip(
            target["boxes"], target["labels"], target["masks"], strict=True
        ):
            x0, y0, x1, y1 = box.int().tolist()
            covered[y0:y1, x0:x1] = True
            inside = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
            inside[y0:y1, x0:x1] = 1
            assert torch.equal(mask, inside)
            red = image[0, y0:y1, x0:x1].float().mean() > 200
            assert label == (LABELS["square"] if red else LABELS["bar"])
            objects += 1
        assert torch.equal(bright, covered)
    assert objects > 30


def test_passes_are_whole_shuffled_and_seeded(images: BoxSet) -> None:
    def bytes_of(batches: list[list[Sample]]) -> list[bytes]:
        return [image.numpy().tobytes() for batch in batches for image, _ in batch]

    order = bytes_of(batches_of(images))
    assert order == bytes_of(batches_of(images, threads=1))
    assert order != bytes_of(batches_of(images, seed=1))
    plain = [
        image for batch in plain_batches(images, batch_size=2, num_threads=1) for image, _ in batch
    ]
    name_of = {one.numpy().tobytes(): number for number, one in enumerate(plain)}
    name_of |= {one.flip(-1).numpy().tobytes(): number for number, one in enumerate(plain)}
    numbers = [name_of[one] for one in order]
    passes = [numbers[first : first + 5] for first in range(0, 30, 5)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    unflipped = sum(any(np.array_equal(i.numpy().tobytes(), o) for i in plain) for o in order)
    assert 0 < unflipped < 30


def test_a_flip_by_hand() -> None:
    image = torch.arange(3 * 2 * 4, dtype=torch.uint8).view(3, 2, 4)
    target = {"boxes": torch.tensor([[0.0, 0.5, 1.0, 2.0]]), "labels": torch.tensor([1])}
    mirrored, moved = flipped(image, target)
    assert mirrored[0, 0].tolist() == [3, 2, 1, 0]
    assert moved["boxes"].tolist() == [[3.0, 0.5, 4.0, 2.0]]
    again, back = flipped(mirrored, moved)
    assert torch.equal(again, image)
    assert torch.equal(back["boxes"], target["boxes"])


def test_ignored_objects_are_not_learned(images: BoxSet) -> None:
    picture = images.pictures[1]
    assert len(picture.boxes) == 2
    partly = replace(picture, boxes=(replace(picture.boxes[0], ignored=True), picture.boxes[1]))
    target = target_of(partly, LABELS, with_masks=True)
    assert target["labels"].tolist() == [LABELS[picture.boxes[1].name]]
    assert target["masks"].shape == (1, HEIGHT, WIDTH)
    empty = target_of(replace(picture, boxes=()), LABELS, with_masks=True)
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, HEIGHT, WIDTH)


def test_bad_images_and_masks(images: BoxSet, tmp_path: Path) -> None:
    picture = images.pictures[0]
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(picture.file.read_bytes()[:60])
    with pytest.raises(InputError, match=r"damaged.png: .*move it and its boxes away"):
        image_of(replace(picture, file=damaged))
    with pytest.raises(InputError, match="decodes to 64 x 48 pixels"):
        image_of(replace(picture, width=65))
    for outline, message in (
        ([[1, 2]], "a mask cannot be read"),
        ({"size": [3, 3], "counts": [9]}, "belongs to an image of 48 x 64"),
        ("round", "a mask cannot be read"),
    ):
        wrong = replace(picture, boxes=(replace(picture.boxes[0], outline=outline),))
        with pytest.raises(InputError, match=message):
            target_of(wrong, LABELS, with_masks=True)
    runs = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT, HEIGHT, HEIGHT * (WIDTH - 2)]}
    right = replace(picture, boxes=(replace(picture.boxes[0], outline=runs),))
    mask = target_of(right, LABELS, with_masks=True)["masks"][0]
    assert mask[:, 1].all(), "runs go down the columns"
    assert mask.sum() == HEIGHT
