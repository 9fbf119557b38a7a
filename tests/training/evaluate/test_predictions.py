import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo
from tests.training.evaluate.cases import NAMES, pictures, write_folders
from tests.training.evaluate.made_evaluations import CLASSES, made_predictions
from training.evaluate.labelled import open_labelled
from training.evaluate.predictions import image_set, read_predictions, write_predictions

RIGHT_DV = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 1, 1]], dtype=np.bool_)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = made_predictions(RIGHT_DV, protocol="finetune", variant="10 %")
    path = write_predictions(tmp_path / "new", made)
    table = pq.read_table(path)
    assert table.column_names == ["draw", "image", "sha256", "label", "predicted", "right"]
    assert table["draw"].to_pylist() == [0] * 5 + [1] * 5
    assert table["right"].to_pylist() == RIGHT_DV.reshape(-1).tolist()
    assert table["image"].to_pylist()[:2] == ["0.jpg", "1.jpg"]
    record = json.loads(table.schema.metadata[b"salmask"])
    assert record["class_names"] == list(CLASSES)
    assert record["result"]["checkpoint_digest"] == "aa"
    assert (record["result"]["protocol"], record["result"]["variant"]) == ("finetune", "10 %")
    (found,) = read_predictions(tmp_path / "new")
    assert found.result == made.result
    order = np.argsort(made.images.sha256)
    assert list(found.images.sha256) == sorted(made.images.sha256)
    assert list(found.images.names) == [made.images.names[row] for row in order]
    assert np.array_equal(found.images.labels_V, made.images.labels_V[order])
    assert np.array_equal(found.right_DV, RIGHT_DV[:, order])


def test_one_file_for_each_checkpoint_protocol_variant_and_set(tmp_path: Path) -> None:
    made = made_predictions(RIGHT_DV)
    other = made_predictions(~RIGHT_DV)
    assert write_predictions(tmp_path, made) == write_predictions(tmp_path, other)
    (found,) = read_predictions(tmp_path)
    assert found.right_DV.sum() == (~RIGHT_DV).sum()
    several: tuple[dict[str, Any], ...] = (
        {"variant": "10 %"},
        {"protocol": "linear"},
        {"checkpoint_digest": "bb"},
        {"val_digest": "ww"},
        {"encoder": "momentum"},
    )
    for changes in several:
        write_predictions(tmp_path, replace(made, result=replace(made.result, **changes)))
    assert len(read_predictions(tmp_path)) == 6


def test_images_of_folders_and_of_shards_are_known_by_their_bytes(
    tmp_path: Path, make_labelled_shards: Callable[..., DatasetInfo]
) -> None:
    root = write_folders(tmp_path / "folders", 5, seed=0)
    folder = image_set(open_labelled(root))
    names = ["blue/0000", "blue/0003", "green/0001", "green/0004", "red/0002"]
    assert list(folder.names) == [f"{name}.png" for name in names]
    digests = [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in folder.names]
    assert list(folder.sha256) == digests
    make_labelled_shards(tmp_path / "shards", *pictures(5, seed=0), NAMES)
    shards = image_set(open_labelled(tmp_path / "shards"))
    assert len(shards.names) == len(set(shards.sha256)) == 5
    assert shards.labels_V.tolist() == [0, 1, 2, 0, 1]
    assert shards.class_names == NAMES


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no evaluation at .*nowhere"):
        read_predictions(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no predictions of images: run jobs/evaluate\.py again"):
        read_predictions(tmp_path)
    (tmp_path / "results.jsonl").write_text("")
    with pytest.raises(InputError, match=r"no predictions of images, only results\.jsonl"):
        read_predictions(tmp_path)
    with pytest.raises(InputError, match=r"give a folder"):
        read_predictions(tmp_path / "results.jsonl")
    for content in (b"", b"PAR1"):
        (tmp_path / "broken.parquet").write_bytes(content)
        with pytest.raises(InputError, match=r"broken\.parquet holds no predictions"):
            read_predictions(tmp_path)
    with pytest.raises(InputError, match=r"cannot be written"):
        write_predictions(tmp_path / "results.jsonl", made_predictions(RIGHT_DV))
