from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.errors import InputError
from pipeline.manifest import DatasetInfo, load_dataset_info
from pipeline.schema import shard_path
from pipeline.shards import ShardSetReader
from training.evaluation import ExtractConfig, evaluate_shards, shard_features, view_batches
from training.features import evaluation_view

CPU = torch.device("cpu")
CONFIG = ExtractConfig(view_size=16, batch_size=7, num_threads=2)
NAMES = ("blue", "green", "red")
MakeShards = Callable[..., DatasetInfo]


def pictures(num: int, seed: int) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Noise of many sizes whose class is the channel that is brighter."""
    generator = np.random.default_rng(seed)
    images, labels = [], []
    for i in range(num):
        height, width = generator.integers(12, 40, 2)
        image = generator.integers(0, 200, (height, width, 3))
        image[..., 2 - i % 3] += 40
        images.append(image.astype(np.uint8))
        labels.append(i % 3)
    return images, labels


@pytest.fixture
def roots(tmp_path: Path, make_labelled_shards: MakeShards) -> tuple[Path, Path]:
    make_labelled_shards(tmp_path / "train", *pictures(60, seed=0), NAMES)
    make_labelled_shards(tmp_path / "val", *pictures(31, seed=1), NAMES)
    return tmp_path / "train", tmp_path / "val"


def reader(root: Path) -> ShardSetReader:
    return ShardSetReader(root, load_dataset_info(root))


def same(image01_BCHW: torch.Tensor) -> torch.Tensor:
    return image01_BCHW


class Colours(nn.Module):
    """A backbone that knows the mean colour."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW.mean(dim=(2, 3)) - 0.42


def test_batches_are_all_views_in_order(roots: tuple[Path, Path]) -> None:
    images, labels = pictures(31, seed=1)
    batches = list(view_batches(reader(roots[1]), range(31), CONFIG))
    assert [len(views) for views, _ in batches] == [7, 7, 7, 7, 3]
    assert torch.cat([labels for _, labels in batches]).tolist() == labels
    views = torch.cat([views for views, _ in batches]).permute(0, 2, 3, 1).numpy()
    for view, image in zip(views, images, strict=True):
        assert np.array_equal(view, evaluation_view(image, 16))


def test_ranks_make_the_whole(roots: tuple[Path, Path]) -> None:
    whole, labels = shard_features(Colours(), reader(roots[1]), CONFIG, prepare=same, device=CPU)
    parts = [
        shard_features(
            Colours(), reader(roots[1]), CONFIG, prepare=same, device=CPU, rank=rank, world_size=4
        )
        for rank in range(4)
    ]
    assert torch.equal(torch.cat([part[0] for part in parts]), whole)
    assert torch.equal(torch.cat([part[1] for part in parts]), labels)


def test_scores_of_a_backbone_that_sees_the_classes(roots: tuple[Path, Path]) -> None:
    figures = evaluate_shards(Colours(), *roots, config=CONFIG, prepare=same, device=CPU)
    assert figures["num_train"] == 60
    assert figures["num_val"] == 31
    assert figures["knn"] > 90
    assert figures["linear"] > 90

    class Blind(nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(x_BCHW), 3)

    blind = evaluate_shards(Blind(), *roots, config=CONFIG, prepare=same, device=CPU)
    assert blind["linear"] < 40  # 11 of 31 are of the most frequent class
    assert blind["knn"] < 40


def test_protocols(roots: tuple[Path, Path]) -> None:
    only = evaluate_shards(
        Colours(), *roots, config=CONFIG, prepare=same, device=CPU, protocols=("knn",)
    )
    assert set(only) == {"num_train", "num_val", "knn"}
    with pytest.raises(InputError, match=r"\['svm'\].*knn, linear"):
        evaluate_shards(
            Colours(), *roots, config=CONFIG, prepare=same, device=CPU, protocols=("svm",)
        )


def refused(train: Path, val: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_shards(Colours(), train, val, config=CONFIG, prepare=same, device=CPU)


def test_labels_are_needed(
    roots: tuple[Path, Path], tmp_path: Path, make_labelled_shards: MakeShards
) -> None:
    make_labelled_shards(tmp_path / "plain", *pictures(4, seed=2))
    refused(roots[0], tmp_path / "plain", "labels asked for where there are none: .*plain")
    refused(tmp_path / "plain", roots[1], "labels asked for where there are none: .*plain")


def test_classes_must_agree(
    roots: tuple[Path, Path], tmp_path: Path, make_labelled_shards: MakeShards
) -> None:
    images, labels = pictures(6, seed=2)
    make_labelled_shards(tmp_path / "other", images, labels, ("blue", "grey", "red"))
    make_labelled_shards(tmp_path / "more", images, labels, (*NAMES, "white"))
    refused(roots[0], tmp_path / "other", "'green' and 'grey'")
    refused(roots[0], tmp_path / "more", "3 and 4 classes")


def test_the_same_set_twice(roots: tuple[Path, Path]) -> None:
    refused(roots[0], roots[0], "the same images")


def test_missing_and_damaged_sets(roots: tuple[Path, Path], tmp_path: Path) -> None:
    refused(roots[0], tmp_path / "nowhere", "nowhere")
    shard_path(roots[1], "shard-000001").unlink()
    refused(*roots, "shard-000001.*missing")


def test_an_image_that_cannot_be_decoded_is_named(roots: tuple[Path, Path]) -> None:
    path = shard_path(roots[1], "shard-000000")
    sample = reader(roots[1]).read(3)
    data = path.read_bytes()
    at = data.index(sample.image)
    path.write_bytes(data[:at] + b"\0" * 64 + data[at + 64 :])
    refused(*roots, r"shard shard-000000, sample picture-000003-\w+: cannot be decoded")


@pytest.mark.parametrize(("view_size", "batch_size", "threads"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_bad_config(view_size: int, batch_size: int, threads: int) -> None:
    with pytest.raises(InputError, match="wanted at least 1 each"):
        ExtractConfig(view_size=view_size, batch_size=batch_size, num_threads=threads)
