import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.backbone.card import Figure
from pipeline.core.errors import InputError
from tests.training.evaluate.cases import CLASSES, made_predictions, made_result
from training.evaluate.results import (
    append_results,
    figures_of,
    read_predictions,
    read_results,
    table,
    write_predictions,
)

LOOK = made_result(protocol="diagnostics", name="uniformity", figure=-1.23456, interval=None)
RIGHT_DV = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 1, 1]], dtype=np.bool_)


def test_lines_go_in_and_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "evaluation"
    append_results(folder, [made_result()])
    append_results(folder, [LOOK, made_result(variant="10 %")])
    lines = (folder / "results.jsonl").read_text().splitlines()
    first, second, third = (json.loads(line) for line in lines)
    assert (first["figure"], first["interval"]) == (61.25, [58.5, 64.0])
    assert (first["train_digest"], first["val_digest"], first["seed"]) == ("tt", "vv", 0)
    assert (second["interval"], third["variant"]) == (None, "10 %")
    assert read_results(folder) == [made_result(), LOOK, made_result(variant="10 %")]


def test_predictions_go_in_and_come_back(tmp_path: Path) -> None:
    made = made_predictions(RIGHT_DV, protocol="finetune", variant="10 %")
    table = pq.read_table(write_predictions(tmp_path / "new", made))
    assert table.column_names == ["draw", "image", "sha256", "label", "predicted", "right"]
    assert table["draw"].to_pylist() == [0] * 5 + [1] * 5
    assert table["right"].to_pylist() == RIGHT_DV.reshape(-1).tolist()
    assert table["image"].to_pylist()[:2] == ["0.jpg", "1.jpg"]
    record = json.loads(table.schema.metadata[b"salmask"])
    assert record["class_names"] == list(CLASSES)
    assert record["result"]["checkpoint_digest"] == "aa"
    assert (record["result"]["protocol"], record["result"]["variant"]) == ("finetune", "10 %")
    (found,) = read_predictions(tmp_path / "new")
    assert (found.result, found.class_names) == (made.result, CLASSES)
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
        write_predictions(tmp_path, made_predictions(RIGHT_DV, **changes))
    assert len(read_predictions(tmp_path)) == 6


def test_the_table_compares_checkpoints() -> None:
    other = {"checkpoint": "untrained", "encoder": "untrained"}
    results = [
        made_result(),
        LOOK,
        made_result(protocol="finetune", variant="1 %"),
        made_result(encoder="momentum", figure=60.0, interval=(57.0, 63.0)),
        made_result(**other, figure=31.0, interval=(30.0, 32.0)),
    ]
    assert table(results).splitlines() == [
        "                                    knn  uniformity          finetune 1 %",
        "runs/a             61.25 (58.5 to 64.0)      -1.235  61.25 (58.5 to 64.0)",
        "runs/a (momentum)  60.00 (57.0 to 63.0)",
        "untrained          31.00 (30.0 to 32.0)",
    ]
    # Diagnostics have digits of their own.
    shown = table([replace(LOOK, interval=(-1.25678, -1.21234))])
    assert shown.splitlines()[1] == "runs/a  -1.235 (-1.26 to -1.21)"
    # Many figures stand below each other.
    cosine = made_result(name="cosine", interval=None)
    lines = table([replace(cosine, variant=str(i), figure=i / 8) for i in range(8)]).splitlines()
    expected = [["cosine", str(i), f"{i / 8:.4g}"] for i in range(8)]
    assert [line.split() for line in lines] == [["runs/a"], *expected]


def test_figures_for_a_card() -> None:
    again = made_result(figure=62.0)
    looks = [replace(LOOK, interval=(-1.3, -1.2)), made_result(name="background_gap")]
    results = [made_result(), *looks, made_result(checkpoint_digest="bb", figure=1.0), again]
    assert figures_of(results, "aa") == [Figure("knn", "val", 62.0, (58.5, 64.0))]
    assert figures_of(results, "cc") == []


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for folder, message in (
        (tmp_path / "nowhere", r"no evaluation at .*nowhere"),
        (tmp_path, r"no predictions of images: run jobs/evaluate\.py again"),
    ):
        with pytest.raises(InputError, match=message):
            read_predictions(folder)
    with pytest.raises(InputError, match=r"no results at .*nowhere"):
        read_results(tmp_path / "nowhere")
    append_results(tmp_path, [made_result()])
    with pytest.raises(
        InputError, match=r"no predictions of images, only results\.jsonl: .*that predicts"
    ):
        read_predictions(tmp_path)
    for line in ("{", "3", '{"interval": null, "figure": 1}'):
        path.write_text(path.read_text().splitlines()[0] + "\n" + line + "\n")
        with pytest.raises(InputError, match=r"line 2 of .*results\.jsonl is no result"):
            read_results(tmp_path)
    for content in (b"", b"PAR1"):
        (tmp_path / "broken.parquet").write_bytes(content)
        with pytest.raises(InputError, match=r"broken\.parquet holds no predictions"):
            read_predictions(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_predictions(path)
    with pytest.raises(InputError, match="cannot be written"):
        append_results(path, [made_result()])
    with pytest.raises(InputError, match="cannot be written"):
        write_predictions(path, made_predictions(RIGHT_DV))
