"""The training itself, and what comes out of a trained detector."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.architectures import plain_network
from pipeline.core.errors import Diverged
from pipeline.core.progress import listening
from pipeline.images.preprocessing import Preprocessing
from tests.listeners import Kept
from tests.training.evaluate.detection.cases import TINY, drawn, write_voc
from training.evaluate.detection.average_precision import average_precisions
from training.evaluate.detection.boxes import open_boxes
from training.evaluate.detection.network import build_detector
from training.evaluate.detection.readers import BoxSet
from training.evaluate.detection.train import detect, train_detector

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> BoxSet:
    return open_boxes(write_voc(tmp_path_factory.mktemp("voc"), drawn(5)))


def trained(images: BoxSet) -> tuple[dict[str, Tensor], list[float]]:
    """The weights after twelve steps, and the loss of every one."""
    config, kept = replace(TINY, steps=12, warmup_steps=2, lr=0.03), Kept()
    torch.manual_seed(0)
    network, _ = plain_network("resnet18")
    detector = build_detector(
        network,
        "resnet18",
        Preprocessing(view_size=32, resize=36),
        config,
        num_classes=2,
        with_masks=False,
    )
    with listening(kept):
        train_detector(detector, images, config, seed=0, name="mine")
    assert not detector.training
    assert [standing.done for standing in kept.standings] == list(range(13))
    assert {standing.work for standing in kept.standings} == {"detector of mine"}
    notes = [standing.note for standing in kept.standings[1:]]
    return detector.state_dict(), [float(note.split()[1]) for note in notes]


def test_a_training_learns_and_repeats_itself(images: BoxSet) -> None:
    weights, losses = trained(images)
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3]), losses
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
            assert image.shape == (3, truth.height, truth.width)
            assert 0 <= image.min() <= image.max() <= 1
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
