"""The fast linear probe against the paper's, on the same photographs and the same network.

Both are given a loaded network and a place where the photographs lie; the validation photographs'
features, which both need, are left out of both. CPU seconds of one process with one thread.
"""

import time
from pathlib import Path

import pytest
import torch

from pipeline.images.preprocessing import Preprocess, Preprocessing
from tests.benchmarks.timing import machine
from training.encoders.encoder import build_backbone
from training.encoders.settings import EncoderConfig
from training.evaluate.extract import ExtractConfig, features_of
from training.evaluate.folders import FolderImages
from training.evaluate.linear import linear_probe, share_right
from training.evaluate.linear_paper import paper_probe
from training.evaluate.settings import PaperProbeConfig

SIZE, NUM_TRAIN, NUM_VAL, AT_LEAST = 64, 1200, 400, 20.0


def linked(photographs: Path, out: Path, count: int) -> FolderImages:
    """Some photographs spread over a folder of classes."""
    files = sorted(photographs.glob("*/*.jpg"))
    for file in files[:: len(files) // count][:count]:
        (out / file.parent.name).mkdir(parents=True, exist_ok=True)
        (out / file.parent.name / file.name).symlink_to(file)
    return FolderImages(out)


@pytest.mark.benchmark
@pytest.mark.usefixtures("one_thread")
def test_fast_against_paper(shared_data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, device = shared_data / "imagenette160", torch.device("cpu")
    train = linked(data / "train", tmp_path / "train", NUM_TRAIN)
    val = linked(data / "val", tmp_path / "val", NUM_VAL)
    assert train.num_images == NUM_TRAIN
    network = build_backbone(EncoderConfig(architecture="resnet18", stem="small"))
    config = ExtractConfig(view_size=SIZE, resize=73)
    prepare = Preprocess(Preprocessing(view_size=SIZE, resize=73)).prepare
    with torch.no_grad():  # statistics of such images, as training would leave them
        for views, _ in config.batches(train, range(0, NUM_TRAIN, 10)):
            network.train()(prepare(views.float() / 255))
    network.eval()
    features_val = features_of(network, val, config, prepare=prepare, device=device)

    laps = [time.process_time()]
    features = features_of(network, train, config, prepare=prepare, device=device)
    laps.append(time.process_time())
    fast = linear_probe(*features, *features_val, num_classes=len(train.class_names))
    laps.append(time.process_time())
    predicted = paper_probe(
        network,
        train,
        features_val,
        PaperProbeConfig(),
        prepare=prepare,
        view_size=SIZE,
        device=device,
        seed=0,
        num_threads=1,
    )
    laps.append(time.process_time())
    fast_seconds, paper_seconds = laps[2] - laps[0], laps[3] - laps[2]
    print(
        f"\n{NUM_TRAIN} photographs, ResNet-18 at {SIZE} px, one thread: {machine('torch')}\n"
        f"fast   {fast_seconds:8.1f} s (of it {laps[2] - laps[1]:.1f} s fit), top-1 "
        f"{fast.top1:.2f} %\n"
        f"paper  {paper_seconds:8.1f} s (100 epochs), top-1 "
        f"{share_right(predicted, features_val[1]):.2f} %\n"
        f"ratio  {paper_seconds / fast_seconds:8.1f}"
    )
    assert paper_seconds / fast_seconds >= AT_LEAST
