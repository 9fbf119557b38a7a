"""Features in a file: those of the export; near-duplicates and spread against slow references."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.backbone.image_encoder import load_image_encoder
from pipeline.core.errors import InputError
from pipeline.images.source_image import decode_source
from pipeline.shardset.manifest import RECORD_KEY
from tests.shard_sets import write_images
from tests.training.evaluate.cases import NAMES, exported, pictures, write_folders
from training.select import embed
from training.select.embed import embed_into_file, near_duplicates
from training.select.embed_config import EmbedConfig
from training.select.greedy import farthest_points


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("embed") / "export", high_pass=(3, 0.7))


def embedded(export: Path, data: Path, out: Path, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    config = EmbedConfig(checkpoint=export, data=data, out=out, **options)
    return embed_into_file(config)[0]


def columns(file: Path) -> tuple[list[str], list[str | None], np.ndarray[Any, Any]]:
    table = pq.read_table(file)
    assert table.column_names == ["name", "label", "vector"]
    vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False))
    return table["name"].to_pylist(), table["label"].to_pylist(), vectors


def test_vectors_are_those_of_the_export(export: Path, tmp_path: Path) -> None:
    """Of folders by name, of shards by number; in half the size up to rounding."""
    data, shards, out = tmp_path / "data", tmp_path / "shards", tmp_path / "f.parquet"
    write_folders(data, 12, seed=0)
    found = embedded(export, data, out)
    names, labels, vectors = columns(out)
    assert found == {"out": out, "images": 12, "features": 512}
    assert names == sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))
    assert labels == [name.partition("/")[0] for name in names]
    encoder, alone = load_image_encoder(export), []
    for name in names:
        pixels = torch.from_numpy(decode_source((data / name).read_bytes()).pixels)
        with torch.no_grad():
            alone.append(encoder(pixels.permute(2, 0, 1)))
    torch.testing.assert_close(torch.from_numpy(vectors), torch.cat(alone), rtol=1e-4, atol=1e-5)
    about = json.loads(pq.read_schema(out).metadata[RECORD_KEY])
    assert about["preprocessing"]["high_pass"] == {"kernel": 3, "sigma": 0.7}
    write_images(shards, *pictures(12, seed=0), NAMES)
    embedded(export, shards, out, dtype="float16")
    stored_names, stored_labels, half = columns(out)
    order = np.argsort([name[-8:] for name in names])  # 0000.png and so on
    assert stored_names == [f"picture-{number:06d}.png" for number in range(12)]
    assert stored_labels == [labels[i] for i in order]
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, vectors[order], rtol=2**-10, atol=1e-4)


def test_planted_copies_are_found_and_nothing_else(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recall and precision are 1 at exact copies, of which one is a triple; blocks split groups."""
    monkeypatch.setattr(embed, "BLOCK_ROWS", 4)
    data, out = write_folders(tmp_path / "data", 18, seed=3), tmp_path / "o" / "f.parquet"
    files = sorted(data.rglob("*.png"))
    planted = set()
    for number, copy in ((0, "z1"), (0, "z2"), (7, "z3"), (17, "z4")):
        path = files[number].with_name(f"{copy}.png")
        shutil.copy(files[number], path)
        planted.add(frozenset(p.relative_to(data).as_posix() for p in (files[number], path)))
    planted.add(frozenset(f"{files[0].parent.name}/{name}.png" for name in ("z1", "z2")))
    found = embedded(export, data, out, duplicates=1 - 1e-6)
    first, *rows = csv.reader((tmp_path / "o" / "f.duplicates.csv").read_text().splitlines())
    assert first == ["cosine", "first", "second"]
    assert {frozenset(row[1:]) for row in rows} == planted
    assert len(rows) == found["duplicates"] == 5


def test_near_duplicates_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = torch.nn.functional.normalize(torch.randn(23, 3, dtype=torch.float64), dim=1)
    monkeypatch.setattr(embed, "BLOCK_ROWS", 5)
    wanted = [
        (i, j, float(unit[i] @ unit[j]))
        for i in range(23)
        for j in range(i + 1, 23)
        if float(unit[i] @ unit[j]) >= 0.8
    ]
    found = near_duplicates(unit, 0.8)
    assert len(found) > 9
    assert [pair[:2] for pair in found] == [
        pair[:2] for pair in sorted(wanted, key=lambda p: -p[2])
    ]
    assert near_duplicates(unit[:1], 0.8) == []


def test_farthest_points_by_hand() -> None:
    """Each is the one whose nearest chosen image is farthest; all are chosen once at the end."""
    rows = np.random.default_rng(0).normal(size=(15, 4)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = farthest_points(unit, 15).tolist()
    assert chosen[0] == int((unit @ unit.mean(axis=0)).argmax())
    for count in range(1, 15):
        nearest = {i: max(float(unit[i] @ unit[c]) for c in chosen[:count]) for i in range(15)}
        left = {i: cosine for i, cosine in nearest.items() if i not in chosen[:count]}
        assert chosen[count] == min(left, key=lambda i: left[i])
    assert sorted(chosen) == list(range(15))
    same = np.ones((4, 2), np.float32) / np.sqrt(2)
    assert sorted(farthest_points(same, 4).tolist()) == [0, 1, 2, 3], "equal ones, each once"


def test_a_choice_and_what_cannot_be_decoded(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_folders(tmp_path / "data", 6, seed=0), tmp_path / "f.parquet"
    (data / "red" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    embedded(export, data, out, diverse=4)
    assert "warning: red/bad.png is left out: " in capsys.readouterr().out
    chosen = (tmp_path / "f.diverse.txt").read_text().split()
    assert len(set(chosen)) == 4
    assert set(chosen) < set(columns(out)[0])
    for options, message in (
        ({"diverse": 7}, "--diverse 7: there are 6 images"),
        ({"diverse": 0}, "--diverse"),
        ({"duplicates": 1.5}, r"--duplicates 1.5 must be in \(0, 1\]"),
    ):
        with pytest.raises(InputError, match=message):
            embedded(export, data, tmp_path / "g.parquet", **options)
    only = tmp_path / "only"
    only.mkdir()
    (only / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    with pytest.raises(InputError, match="there are no images to take features of"):
        embedded(export, only, tmp_path / "g.parquet")
    assert not (tmp_path / "g.parquet").exists()
    assert cv2.imwrite(str(only / "bad.png"), np.zeros((8, 8, 3), np.uint8))
    embedded(export, only, out)
    assert columns(out)[:2] == (["bad.png"], [None]), "no folder of its class, so no label"
