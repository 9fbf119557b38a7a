"""The fast linear probe against the paper's, on the same photographs and the same network.

Both are given a loaded network and a place where the photographs lie; the validation photographs'
features, which both need, are left out of both. CPU seconds of one process with one thread.
"""

import time
from pathlib import Path

import pytest
import torch

from pipeline.images.preprocessing import Preprocessing
from tests.benchmarks.timing import machine
from tests.training.evaluate.cases import case_of
from training.encoders.encoder import build_backbone
from training.encoders.settings import EncoderConfig
from training.evaluate.encoders import calibrate
from training.evaluate.frozen import linear
from training.evaluate.labelled import LabelledImages, folder_images
from training.evaluate.sgd import linear_paper

SIZE, NUM_TRAIN, NUM_VAL, AT_LEAST = 64, 1200, 400, 20.0


def linked(photographs: Path, out: Path, count: int) -> LabelledImages:
    """Some photographs spread over a folder of classes."""
    files = sorted(photographs.glob("*/*.jpg"))
    for file in files[:: len(files) // count][:count]:
        (out / file.parent.name).mkdir(parents=True, exist_ok=True)
        (out / file.parent.name / file.name).symlink_to(file)
    return folder_images(out, labels=True)


@pytest.mark.benchmark
@pytest.mark.usefixtures("one_thread")
def test_fast_against_paper(shared_data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = shared_data / "imagenette160"
    train = linked(data / "train", tmp_path / "train", NUM_TRAIN)
    val = linked(data / "val", tmp_path / "val", NUM_VAL)
    assert train.num_images == NUM_TRAIN
    network = build_backbone(EncoderConfig(architecture="resnet18", stem="small"))
    case = case_of(network, train, val, Preprocessing(view_size=SIZE, resize=73))
    calibrate(case.encoder, train)  # statistics of such images, as training would leave them
    assert len(case.features_val[0]) == NUM_VAL

    laps = [time.process_time()]
    assert len(case.features_train[0]) == NUM_TRAIN
    laps.append(time.process_time())
    (fast,) = linear(case)
    laps.append(time.process_time())
    (paper,) = linear_paper(case)
    laps.append(time.process_time())
    fast_seconds, paper_seconds = laps[2] - laps[0], laps[3] - laps[2]
    print(
        f"\n{NUM_TRAIN} photographs, ResNet-18 at {SIZE} px, one thread: {machine('torch')}\n"
        f"fast   {fast_seconds:8.1f} s (of it {laps[2] - laps[1]:.1f} s fit), top-1 "
        f"{fast.figure:.2f} %\n"
        f"paper  {paper_seconds:8.1f} s (100 epochs), top-1 "
        f"{paper.figure:.2f} %\n"
        f"ratio  {paper_seconds / fast_seconds:8.1f}"
    )
    assert paper_seconds / fast_seconds >= AT_LEAST
