import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from tests.training.evaluate.made_evaluations import CLASSES, made_predictions
from training.evaluate.predictions import read_predictions, write_predictions

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
    assert found.class_names == CLASSES
    order = np.argsort(made.sha256_V)
    for column in ("sha256_V", "names_V", "labels_V"):
        assert np.array_equal(getattr(found, column), getattr(made, column)[order])
    assert np.array_equal(found.right_DV, RIGHT_DV[:, order])


def test_one_file_for_each_checkpoint_protocol_variant_and_set(tmp_path: Path) -> None:
    made, other = made_predictions(RIGHT_DV), made_predictions(~RIGHT_DV)
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


def test_bad_folders(tmp_path: Path) -> None:
    def refused(folder: Path, message: str) -> None:
        with pytest.raises(InputError, match=message):
            read_predictions(folder)

    refused(tmp_path / "nowhere", r"no evaluation at .*nowhere")
    refused(tmp_path, r"no predictions of images: run jobs/evaluate\.py again")
    (tmp_path / "results.jsonl").write_text("")
    refused(tmp_path, r"no predictions of images, only results\.jsonl")
    refused(tmp_path / "results.jsonl", r"no such folder")
    for content in (b"", b"PAR1"):
        (tmp_path / "broken.parquet").write_bytes(content)
        refused(tmp_path, r"broken\.parquet holds no predictions")
    with pytest.raises(InputError, match=r"cannot be written"):
        write_predictions(tmp_path / "results.jsonl", made_predictions(RIGHT_DV))
