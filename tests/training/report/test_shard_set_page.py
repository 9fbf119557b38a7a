import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import (
    DatasetInfo,
    read_manifest,
    read_record,
    write_dataset_info,
    write_manifest,
    write_rejected,
)
from pipeline.shardset.schema import manifest_file, shard_file
from tests.shard_sets import picture, write_images, write_shard_set
from tests.training.report.pages import page_of
from training.report.config import ReportConfig
from training.report.shard_set_page import read_rows
from training.report.write import write_report


def with_rejected(folder: Path, info: DatasetInfo) -> None:
    reasons = ["empty file", "empty file", "not an image"]
    rows = [{"source": f"bad{i}.jpg", "reason": reason} for i, reason in enumerate(reasons)]
    write_rejected(folder, info.shards[0].name, rows)
    write_dataset_info(folder, replace(info, num_rejected=3))


def test_a_whole_set(tmp_path: Path) -> None:
    info = write_shard_set(tmp_path, num_images=20, shard_images=8)
    with_rejected(tmp_path, info)
    page = page_of(tmp_path, images=4)
    assert [page.facts[name] for name in ("images", "rejected", "classes")] == ["20", "3", "3"]
    assert "Every shard is there" in page.summary
    sheet = page["images"]
    assert len(sheet.cards) == 4
    assert sheet.labels == ["image", "saliency", "foreground"] * 4
    assert all(sheet.alts)
    reasons, names = page["rejected"].tables
    assert reasons[1:] == [("empty file", "2"), ("not an image", "1")]
    assert len(names) == 4
    assert "No two images have the same bytes" in page["copies"].text
    assert "all foreground" in page["foreground"].text
    assert list(page["foreground"].charts) == ["Foreground share", "Spread of the saliency map"]
    classes = page["classes"].charts["Images of each class"]["alt"]
    assert "class_0 7; class_1 7; class_2 6" in classes


def test_the_foreground_that_is_drawn_is_that_of_the_saliency(tmp_path: Path) -> None:
    image = np.full((70, 70, 3), 200, np.uint8)
    mask = np.zeros((70, 70), np.float32)
    mask[10:50, 10:50] = 1
    write_images(tmp_path, [image] * 2, [0, 0], saliency=[mask] * 2)
    (edge,) = page_of(tmp_path, images=1)["images"].overlays
    # rows and columns 1 to 4 of 7: four edges on each of four sides
    across = [f"M{x} {y}h1" for x in range(1, 5) for y in (1, 5)]
    down = [f"M{x} {y}v1" for x in (1, 5) for y in range(1, 5)]
    assert sorted(re.findall(r"M\d \d[hv]1", edge)) == sorted(across + down)


def test_copies_are_found_with_their_labels(tmp_path: Path) -> None:
    images = [picture(number)[0] for number in range(5)]
    images[4] = images[1]
    write_images(tmp_path, images, [0, 0, 1, 1, 1], ("cat", "dog"), shard_images=2)
    copies = page_of(tmp_path, images=4)["copies"]
    assert "1 image is byte for byte a copy of another: 1 group" in copies.text
    assert "1 group of copies lies in different classes" in copies.text
    (table,) = copies.tables
    assert table[1:] == [("2", "picture-000001.png, picture-000004.png", "yes")]


def test_most_and_least_salient(tmp_path: Path) -> None:
    (shard,) = write_shard_set(tmp_path, num_images=5).shards
    rows, record = (
        read_manifest(tmp_path, shard.name).to_pylist(),
        read_record(tmp_path, shard.name),
    )
    assert record is not None
    for row, mean in zip(rows, (0.1, 0.9, 0.4, 0.7, 0.2), strict=True):
        row["saliency_mean"] = mean
    write_manifest(tmp_path, record, rows)
    page = page_of(tmp_path, images=40)
    assert page["most"].cards == ["picture-000001.jpg", "picture-000003.jpg"]
    assert page["least"].cards == ["picture-000000.jpg", "picture-000004.jpg"]


def test_without_labels_images_or_more_than_one_size(tmp_path: Path) -> None:
    write_images(tmp_path, [np.full((40, 60, 3), 9 * i, np.uint8) for i in range(3)], [0] * 3)
    page = page_of(tmp_path, images=4)
    assert "classes" not in page.sections
    assert "median 40" in page["sizes"].charts["Shorter side"]["alt"]
    assert "median 1.5" in page["sizes"].charts["Width by height"]["alt"]
    assert page.facts["classes"] == "no labels"
    assert "No image was rejected" in page["rejected"].text
    write_images(tmp_path / "empty", [], [])
    assert "0 images" in page_of(tmp_path / "empty").summary


def test_shards_that_are_gone_leave_the_numbers_of_all(tmp_path: Path) -> None:
    info = write_shard_set(tmp_path, num_images=11, shard_images=4)
    rows = read_rows(tmp_path, info)
    tables = [read_manifest(tmp_path, shard.name).to_pylist() for shard in info.shards]
    assert rows["width"].to_pylist() == [row["width"] for table in tables for row in table]
    assert rows["label"].to_pylist() == [number % 3 for number in range(11)]
    (tmp_path / shard_file(info.shards[1].name)).unlink()
    page = page_of(tmp_path, images=11)
    assert "no longer complete" in page.summary
    assert "4 images could not be shown; the first: " in page["images"].text


def test_damaged_manifests_are_refused(tmp_path: Path) -> None:
    info = write_shard_set(tmp_path, num_images=4)
    write_dataset_info(tmp_path, replace(info, shards=(replace(info.shards[0], num_images=3),)))
    with pytest.raises(InputError, match=r"has 4 rows, dataset.json says 3"):
        page_of(tmp_path)
    (tmp_path / manifest_file(info.shards[0].name)).write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"shard-000000\.parquet cannot be read"):
        write_report(ReportConfig(folder=tmp_path))
    assert not list(tmp_path.rglob("report.html"))
