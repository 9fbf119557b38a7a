import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.backbone.card import Figure
from pipeline.core.errors import InputError
from tests.training.evaluate.made_evaluations import made_result
from training.evaluate.results import append_results, figures_of, read_results, table

LOOK = made_result(protocol="diagnostics", name="uniformity", figure=-1.23456, interval=None)


def test_lines_go_in_and_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "evaluation"
    append_results(folder, [made_result()])
    append_results(folder, [LOOK, made_result(variant="10 %")])
    lines = (folder / "results.jsonl").read_text().splitlines()
    first, second, third = (json.loads(line) for line in lines)
    assert first["figure"] == 61.25
    assert first["interval"] == [58.5, 64.0]
    assert (first["train_digest"], first["val_digest"], first["seed"]) == ("tt", "vv", 0)
    assert (second["interval"], third["variant"]) == (None, "10 %")
    assert read_results(folder) == [made_result(), LOOK, made_result(variant="10 %")]


def test_the_table_compares_checkpoints() -> None:
    other = {"checkpoint": "untrained", "encoder": "untrained"}
    momentum = made_result(encoder="momentum", figure=60.0, interval=(57.0, 63.0))
    shown = table(
        [
            made_result(),
            LOOK,
            made_result(protocol="finetune", variant="1 %"),
            momentum,
            made_result(**other, figure=31.0, interval=(30.0, 32.0)),
        ]
    )
    assert shown.splitlines() == [
        "                                    knn  uniformity          finetune 1 %",
        "runs/a             61.25 (58.5 to 64.0)      -1.235  61.25 (58.5 to 64.0)",
        "runs/a (momentum)  60.00 (57.0 to 63.0)",
        "untrained          31.00 (30.0 to 32.0)",
    ]


def test_diagnostics_have_digits_of_their_own() -> None:
    shown = table([dataclasses.replace(LOOK, interval=(-1.25678, -1.21234))])
    assert shown.splitlines()[1] == "runs/a  -1.235 (-1.26 to -1.21)"


def test_many_figures_stand_below_each_other() -> None:
    many = [
        made_result(name="cosine", variant=str(i), figure=i / 8, interval=None) for i in range(8)
    ]
    lines = table(many).splitlines()
    assert lines[0].split() == ["runs/a"]
    assert [line.split() for line in lines[1:]] == [
        ["cosine", str(i), f"{i / 8:.4g}"] for i in range(8)
    ]


def test_figures_for_a_card() -> None:
    again = made_result(figure=62.0)
    looks = [dataclasses.replace(LOOK, interval=(-1.3, -1.2)), made_result(name="background_gap")]
    results = [made_result(), *looks, made_result(checkpoint_digest="bb", figure=1.0), again]
    assert figures_of(results, "aa") == [Figure("knn", "val", 62.0, (58.5, 64.0))]
    assert figures_of(results, "cc") == []


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no results at .*nowhere"):
        read_results(tmp_path / "nowhere")
    path = tmp_path / "results.jsonl"
    append_results(tmp_path, [made_result()])
    for line in ("{", "3", '{"interval": null, "figure": 1}'):
        path.write_text(path.read_text().splitlines()[0] + "\n" + line + "\n")
        with pytest.raises(InputError, match=r"line 2 of .*results\.jsonl is no result"):
            read_results(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        append_results(tmp_path / "file", [made_result()])
