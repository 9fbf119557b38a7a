"""What a training sees (order, flips, targets), the training itself, and what a detector finds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import plain_network
from pipeline.core.errors import Diverged, InputError
from pipeline.core.progress import listening
from pipeline.images.preprocessing import Preprocessing
from tests.listeners import Kept
from tests.training.evaluate.detection.cases import HEIGHT, NAMES, TINY, WIDTH, drawn, write_coco
from training.evaluate.detection import train as module
from training.evaluate.detection.average_precision import average_precisions
from training.evaluate.detection.boxes import BoxSet, open_boxes
from training.evaluate.detection.network import build_detector
from training.evaluate.detection.train import (
    Sample,
    detect,
    flipped,
    image_of,
    target_of,
    train_detector,
    training_batches,
)

CPU = torch.device("cpu")


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
        parts = (target[name] for name in ("boxes", "labels", "masks"))
        for box, label, mask in zip(*parts, strict=True):
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
    plain = [image_of(picture) for picture in images.pictures]
    number_of = {one.numpy().tobytes(): (number, False) for number, one in enumerate(plain)}
    number_of |= {one.flip(-1).numpy().tobytes(): (n, True) for n, one in enumerate(plain)}
    items = [number_of[one] for one in order]
    passes = [tuple(n for n, _ in items[first : first + 5]) for first in range(0, 30, 5)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert len(set(passes)) > 1
    assert {flip for _, flip in items} == {False, True}


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
        ({"size": [3, 3], "counts": [9]}, r"its image is \[3, 3\] .*, not 48 x 64"),
        ("round", "a mask cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            mask_of(outline)
    mask = mask_of({"size": [HEIGHT, WIDTH], "counts": [HEIGHT, HEIGHT, HEIGHT * (WIDTH - 2)]})
    assert mask[:, 1].all(), "runs go down the columns"
    assert mask.sum() == HEIGHT


def trained(images: BoxSet) -> tuple[dict[str, Tensor], list[float]]:
    """The weights after 24 steps, and the loss of every one."""
    config, kept = replace(TINY, steps=24, warmup_steps=2, lr=0.03), Kept()
    torch.manual_seed(0)
    network, _ = plain_network("resnet18")
    seen = Preprocessing(view_size=32, resize=36)
    info = BackboneInfo(architecture="resnet18", feature_dim=512, preprocessing=seen)
    detector = build_detector(network, info, config, num_classes=2, with_masks=False)
    with listening(kept):
        train_detector(detector, images, config, seed=0, name="mine")
    assert not detector.training
    assert [standing.done for standing in kept.standings] == list(range(25))
    assert {standing.work for standing in kept.standings} == {"detector of mine"}
    notes = [standing.note for standing in kept.standings[1:]]
    return detector.state_dict(), [float(note.split()[1]) for note in notes]


def test_a_training_learns_and_repeats_itself(images: BoxSet) -> None:
    weights, losses = trained(images)
    assert len(losses) == 24
    assert sum(losses[-3:]) < 0.68 * sum(losses[:3]), losses
    again, same = trained(images)
    assert losses == same
    assert all(torch.equal(again[name], value) for name, value in weights.items())


class Oracle(nn.Module):
    """Finds what is annotated, in the order in which it is asked."""

    def __init__(self, images: BoxSet, label_shift: int) -> None:
        super().__init__()
        self.waiting = list(images.pictures)
        self.names, self.label_shift = images.class_names, label_shift

    def forward(self, pictures: list[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for image in pictures:
            truth = self.waiting.pop(0)
            torch.testing.assert_close(image, image_of(truth) / 255)
            labels = [self.names.index(box.name) + self.label_shift for box in truth.boxes]
            found.append(
                {
                    "boxes": torch.tensor([box.box for box in truth.boxes]).reshape(-1, 4),
                    "labels": torch.tensor(labels, dtype=torch.int64),
                    "scores": torch.ones(len(labels)),
                }
            )
        return found


def test_what_a_detector_finds_is_scored_in_its_image_and_class(images: BoxSet) -> None:
    figures = []
    for shift in (1, 2):  # torchvision counts classes from 1: 0 is the background
        found = detect(Oracle(images, shift), images, device=CPU, batch_size=2)
        figures.append(average_precisions(images, found)["AP"].figure)
    assert figures == [pytest.approx(100), 0]


class Diverging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, *_: object) -> dict[str, Tensor]:
        return {"loss_classifier": self.weight * float("nan")}


def test_a_loss_that_diverges(images: BoxSet) -> None:
    with pytest.raises(Diverged, match=r"loss is nan at step 1: lower detection.lr \(0.01\)"):
        train_detector(Diverging(), images, TINY, seed=0)
