"""The fast linear probe against the paper's, on the same photographs and the same network.

Both are given a loaded network and a place where the photographs lie; the validation photographs'
features, which both need, are left out of both. CPU seconds of one process with one thread: other
programs on the machine hardly move them.
"""

import platform
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.images.preprocessing import Preprocessing
from tests.training.evaluate.cases import case_of
from training.encoders.encoder import build_backbone
from training.encoders.settings import EncoderConfig
from training.evaluate.labelled import FolderImages, LabelledImages
from training.evaluate.linear import linear
from training.evaluate.linear_paper import linear_paper
from training.evaluate.untrained import calibrate

pytestmark = pytest.mark.benchmark
SIZE, NUM_IMAGES, AT_LEAST = 64, 1200, 20.0


class Some(LabelledImages):
    """Every n-th image of a folder."""

    def __init__(self, whole: FolderImages, every: int) -> None:
        self.whole, self.every = whole, every
        self.root, self.class_names = whole.root, whole.class_names
        self.num_images, self.digest = len(self.labels()), whole.digest
        self.shard_sizes, self.content = (self.num_images,), whole.content

    def labels(self) -> NDArray[np.int64]:
        return self.whole.labels()[:: self.every]

    def image(self, number: int) -> NDArray[np.uint8]:
        return self.whole.image(number * self.every)


def test_fast_against_paper(shared_data: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = shared_data / "imagenette160"
    train, val = Some(FolderImages(data / "train"), 4), Some(FolderImages(data / "val"), 3)
    assert train.num_images == NUM_IMAGES
    network = build_backbone(EncoderConfig(architecture="resnet18", stem="small"))
    case = case_of(network, train, val, Preprocessing(view_size=SIZE, resize=73))
    calibrate(case.extractor, train)  # statistics of such images, as training would leave them
    assert len(case.features_val[0]) == val.num_images

    started = time.process_time()
    assert len(case.features_train[0]) == NUM_IMAGES
    extracted = time.process_time()
    (fast,) = linear(case)
    fast_seconds = time.process_time() - started
    fit_seconds = fast_seconds - (extracted - started)

    started = time.process_time()
    (paper,) = linear_paper(case)
    paper_seconds = time.process_time() - started
    print(
        f"\n{NUM_IMAGES} photographs, ResNet-18 at {SIZE} px, one thread of "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}\n"
        f"fast   {fast_seconds:8.1f} s (of it {fit_seconds:.1f} s fit), top-1 {fast.figure:.2f} %\n"
        f"paper  {paper_seconds:8.1f} s (100 epochs), top-1 {paper.figure:.2f} %\n"
        f"ratio  {paper_seconds / fast_seconds:8.1f}"
    )
    assert paper_seconds / fast_seconds >= AT_LEAST
