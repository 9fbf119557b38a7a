"""Saliency from an encoder of one's own: maps without labels, pretraining, maps from it."""

from pathlib import Path

import numpy as np

from pipeline.images.codecs import encode_saliency
from pipeline.images.filters import scaled_kernel
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.registry import describe_saliency_source
from pipeline.saliency.scda import Scda
from pipeline.shardset.manifest import load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from tests.runs import TORCHVISIONS, small_run
from tests.shard_sets import picture, write_images
from training.config.settings import KnnConfig
from training.engine.local import launch


def test_an_encoder_that_learned_with_maps_makes_the_next_maps(tmp_path: Path) -> None:
    images = [picture(number)[0] for number in range(16)]
    labels = [number % 3 for number in range(16)]
    write_images(tmp_path / "first", images, labels, saliency=Boundary()(images))
    short = {"epochs": 1, "fill": "high_pass", "knn": KnnConfig(), "encoder": TORCHVISIONS}
    first = launch(small_run(tmp_path / "first", tmp_path / "run", **short))
    assert (first.step, first.ran) == (2, True)

    # the weights are those of the run, with its filter, and stay those
    source = Scda(weights=str(tmp_path / "run" / "backbone"), side=96, edges="reflect").pinned()
    described = describe_saliency_source("scda", source)
    assert described["network"] == TORCHVISIONS.architecture
    assert described["high_pass"] == list(scaled_kernel(11, 5.0, 32))
    assert described["weights_digest"] == source.parameters()["weights_digest"] != ""

    maps = source(images)
    info = write_images(tmp_path / "second", images, labels, saliency=maps)
    reader = ShardSetReader(tmp_path / "second", load_dataset_info(tmp_path / "second"))
    assert reader.num_samples == info.num_images == 16
    for number, saliency in enumerate(maps):
        assert (saliency.min(), saliency.max()) == (0, 1)
        assert saliency.std() > 0.05
        assert reader.read(number).saliency == encode_saliency(saliency, info.saliency_size)
    assert not any(np.array_equal(maps[0], other) for other in maps[1:])
    second = launch(small_run(tmp_path / "second", tmp_path / "run_2", **short))
    assert (second.step, second.ran) == (2, True)
