import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import (
    DatasetInfo,
    read_manifest,
    write_dataset_info,
    write_rejected,
)
from pipeline.shardset.schema import DATASET_FILE, manifest_file, shard_file
from tests.shard_sets import picture, write_images, write_shard_set
from tests.training.report.pages import Page, page_of
from training.report.config import ReportConfig
from training.report.shard_set.rows import read_rows
from training.report.write import write_report


def set_page(folder: Path, images: int = 4) -> Page:
    return page_of(ReportConfig(folder=folder, images=images))


def with_rejected(folder: Path, info: DatasetInfo) -> None:
    reasons = ["empty file", "empty file", "not an image"]
    rows = [{"source": f"bad{i}.jpg", "reason": reason} for i, reason in enumerate(reasons)]
    write_rejected(folder, info.shards[0].name, rows)
    write_dataset_info(folder, DatasetInfo(**{**vars(info), "num_rejected": 3}))


def test_a_whole_set(tmp_path: Path) -> None:
    info = write_shard_set(tmp_path, num_images=20, shard_images=8)
    with_rejected(tmp_path, info)
    page = set_page(tmp_path)
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
    assert (
        "class_0 7; class_1 7; class_2 6" in page["classes"].charts["Images of each class"]["alt"]
    )


def test_the_foreground_that_is_drawn_is_that_of_the_saliency(tmp_path: Path) -> None:
    image = np.full((70, 70, 3), 200, np.uint8)
    mask = np.zeros((70, 70), np.float32)
    mask[10:50, 10:50] = 1
    write_images(tmp_path, [image] * 2, [0, 0], saliency=[mask] * 2)
    (edge,) = set_page(tmp_path, images=1)["images"].overlays
    # rows and columns 1 to 4 of 7: four edges on each of four sides
    places = range(1, 5)
    assert sorted(re.findall(r"M\d \dh1", edge)) == sorted(
        f"M{x} {y}h1" for x in places for y in (1, 5)
    )
    assert sorted(re.findall(r"M\d \dv1", edge)) == sorted(
        f"M{x} {y}v1" for x in (1, 5) for y in places
    )


def test_copies_are_found_with_their_labels(tmp_path: Path) -> None:
    images = [picture(number)[0] for number in range(5)]
    images[4] = images[1]
    write_images(tmp_path, images, [0, 0, 1, 1, 1], ("cat", "dog"), shard_images=2)
    copies = set_page(tmp_path)["copies"]
    assert "1 image is byte for byte a copy of another: 1 group" in copies.text
    assert "1 group of copies lies in different classes" in copies.text
    (table,) = copies.tables
    assert table[1:] == [("2", "picture-000001.png, picture-000004.png", "yes")]


def test_most_and_least_salient_share_no_image(tmp_path: Path) -> None:
    write_shard_set(tmp_path, num_images=5)
    page = set_page(tmp_path, images=40)
    most, least = set(page["most"].cards), set(page["least"].cards)
    assert (len(most), len(least)) == (2, 2)
    assert not most & least


def test_without_labels_and_with_one_size(tmp_path: Path) -> None:
    write_images(tmp_path, [np.full((40, 40, 3), 9 * i, np.uint8) for i in range(3)], [0] * 3)
    page = set_page(tmp_path)
    assert "classes" not in page.sections
    assert "median 40 px" in page["sizes"].charts["Shorter side"]["alt"]
    assert page.facts["classes"] == "no labels"
    assert "No image was rejected" in page["rejected"].text


def test_an_empty_set(tmp_path: Path) -> None:
    write_images(tmp_path, [], [])
    write_report(ReportConfig(folder=tmp_path))
    assert "0 images" in (tmp_path / "report.html").read_text()


def test_shards_that_are_gone_leave_the_numbers(tmp_path: Path) -> None:
    info = write_shard_set(tmp_path, num_images=8, shard_images=4)
    (tmp_path / shard_file(info.shards[1].name)).unlink()
    page = set_page(tmp_path, images=8)
    assert "no longer complete" in page.summary
    assert "4 images could not be shown; the first: " in page["images"].text


def test_many_shards_keep_their_numbering(tmp_path: Path) -> None:
    info = write_shard_set(tmp_path, num_images=11, shard_images=4)
    rows = read_rows(tmp_path, info)
    expected = [
        row["width"]
        for shard in info.shards
        for row in read_manifest(tmp_path, shard.name).to_pylist()
    ]
    assert rows.column("width").tolist() == expected
    assert rows.labels.tolist() == [number % 3 for number in range(11)]


def test_half_written_or_damaged_sets_are_refused(tmp_path: Path) -> None:
    info = write_shard_set(tmp_path / "a", num_images=4)
    (tmp_path / "a" / DATASET_FILE).unlink()
    with pytest.raises(InputError, match=r"no complete shard set at .*dataset.json is missing"):
        write_report(ReportConfig(folder=tmp_path / "a"))
    write_shard_set(tmp_path / "b", num_images=4)
    (tmp_path / "b" / manifest_file(info.shards[0].name)).write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"shard-000000\.parquet cannot be read"):
        write_report(ReportConfig(folder=tmp_path / "b"))
    assert not list(tmp_path.rglob("report.html"))
