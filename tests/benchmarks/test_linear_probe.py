"""The fast linear probe against the paper's, on the same photographs and the same network.

Both are given a loaded network and a place where the photographs lie; the validation photographs'
features, which both need, are left out of both. CPU seconds of one process with one thread: other
programs on the machine hardly move them.
"""

import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.images.preprocessing import Preprocess, Preprocessing
from training.encoders.encoder import build_backbone
from training.encoders.settings import EncoderConfig
from training.evaluate.extract import ExtractConfig, features_of
from training.evaluate.folders import FolderImages
from training.evaluate.labelled import LabelledImages
from training.evaluate.linear import linear_probe, share_right
from training.evaluate.linear_paper import paper_probe
from training.evaluate.settings import PaperProbeConfig

pytestmark = pytest.mark.benchmark
CPU = torch.device("cpu")
SIZE, NUM_IMAGES, AT_LEAST = 64, 1200, 20.0


@dataclass
class Some:
    """Every n-th image of a folder."""

    whole: FolderImages
    every: int
    saliency_source: str | None = None

    def __post_init__(self) -> None:
        self.root, self.class_names = self.whole.root, self.whole.class_names
        self.digest, self.content = self.whole.digest, self.whole.content
        self.num_images = len(self.labels())
        self.shard_sizes: tuple[int, ...] = (self.num_images,)

    def labels(self) -> NDArray[np.int64]:
        return self.whole.labels()[:: self.every]

    def image(self, number: int) -> NDArray[np.uint8]:
        return self.whole.image(number * self.every)

    def saliency(self, number: int) -> NDArray[np.uint8]:
        raise AssertionError


def test_fast_against_paper(shared_data: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = shared_data / "imagenette160"
    train: LabelledImages = Some(FolderImages(data / "train"), 4)
    val: LabelledImages = Some(FolderImages(data / "val"), 3)
    assert train.num_images == NUM_IMAGES
    network: nn.Module = build_backbone(EncoderConfig(architecture="resnet18", stem="small"))
    config = ExtractConfig(view_size=SIZE, resize=73)
    prepare = Preprocess(Preprocessing(view_size=SIZE, resize=73)).prepare
    with torch.no_grad():  # statistics of such images, as training would leave them
        for views, _ in config.batches(train, range(0, NUM_IMAGES, 10)):
            network.train()(prepare(views.float() / 255))
    network.eval()
    features_val = features_of(network, val, config, prepare=prepare, device=CPU)

    started = time.process_time()
    features = features_of(network, train, config, prepare=prepare, device=CPU)
    extracted = time.process_time()
    fast = linear_probe(*features, *features_val, num_classes=len(train.class_names))
    fast_seconds = time.process_time() - started
    fit_seconds = fast_seconds - (extracted - started)

    started = time.process_time()
    predicted = paper_probe(
        network,
        train,
        features_val,
        PaperProbeConfig(),
        prepare=prepare,
        view_size=SIZE,
        device=CPU,
        seed=0,
        num_threads=1,
    )
    paper_seconds = time.process_time() - started
    print(
        f"\n{NUM_IMAGES} photographs, ResNet-18 at {SIZE} px, one thread of "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}\n"
        f"fast   {fast_seconds:8.1f} s (of it {fit_seconds:.1f} s fit), top-1 {fast.top1:.2f} %\n"
        f"paper  {paper_seconds:8.1f} s (100 epochs), top-1 "
        f"{share_right(predicted, features_val[1]):.2f} %\n"
        f"ratio  {paper_seconds / fast_seconds:8.1f}"
    )
    assert paper_seconds / fast_seconds >= AT_LEAST
