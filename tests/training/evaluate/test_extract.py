from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.errors import DamagedSample, InputError
from pipeline.shardset.manifest import DatasetInfo, load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import shard_file
from tests.training.evaluate.cases import NAMES, pictures
from training.evaluate.extract import ExtractConfig, features_of, gathered_features
from training.evaluate.features import evaluation_view
from training.evaluate.labelled import open_labelled

CPU = torch.device("cpu")
CONFIG = ExtractConfig(view_size=16, batch_size=7, num_threads=2)


@pytest.fixture
def root(tmp_path: Path, make_labelled_shards: Callable[..., DatasetInfo]) -> Path:
    make_labelled_shards(tmp_path / "val", *pictures(31, seed=1), NAMES)
    return tmp_path / "val"


def same(image01_BCHW: torch.Tensor) -> torch.Tensor:
    return image01_BCHW


class Means(nn.Module):
    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW.mean(dim=(2, 3))


def test_batches_are_all_views_in_order(root: Path) -> None:
    images, labels = pictures(31, seed=1)
    batches = list(CONFIG.batches(open_labelled(root), range(31)))
    assert [len(views) for views, _ in batches] == [7, 7, 7, 7, 3]
    assert torch.cat([labels for _, labels in batches]).tolist() == labels
    views = torch.cat([views for views, _ in batches]).permute(0, 2, 3, 1).numpy()
    for view, image in zip(views, images, strict=True):
        assert np.array_equal(view, evaluation_view(image, 16))


def test_ranks_make_the_whole(root: Path) -> None:
    images = open_labelled(root)
    whole, labels = features_of(Means(), images, CONFIG, prepare=same, device=CPU)
    parts = [
        features_of(Means(), images, CONFIG, prepare=same, device=CPU, rank=rank, world_size=4)
        for rank in range(4)
    ]
    assert torch.equal(torch.cat([part[0] for part in parts]), whole)
    assert torch.equal(torch.cat([part[1] for part in parts]), labels)
    alone = gathered_features(Means(), images, CONFIG, prepare=same, device=CPU)
    assert torch.equal(alone[0], whole)


def test_an_image_that_cannot_be_decoded_is_named(root: Path) -> None:
    path = root / shard_file("shard-000000")
    sample = ShardSetReader(root, load_dataset_info(root)).read(3)
    data = path.read_bytes()
    at = data.index(sample.image)
    path.write_bytes(data[:at] + b"\0" * 64 + data[at + 64 :])
    with pytest.raises(DamagedSample, match=r"picture-000003-\w+ in shard-000000 is damaged"):
        features_of(Means(), open_labelled(root), CONFIG, prepare=same, device=CPU)


@pytest.mark.parametrize(("view_size", "batch_size", "threads"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_bad_config(view_size: int, batch_size: int, threads: int) -> None:
    with pytest.raises(InputError, match="wanted at least 1 each"):
        ExtractConfig(view_size=view_size, batch_size=batch_size, num_threads=threads)
