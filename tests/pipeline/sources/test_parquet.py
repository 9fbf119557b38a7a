"""Parquet files that hold images, or name them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from tests.s3_server import Bucket
from tests.source_reading import listed, read


def test_floats_of_a_table(tmp_path: Path) -> None:
    kinds = pa.array([1.0, 0.0, None])
    pq.write_table(pa.table({"image": [b"1", b"2", b"3"], "label": kinds}), tmp_path / "x.parquet")
    assert listed(tmp_path / "x.parquet").unlabelled_because == "x.parquet/000000002 has no label"
    classes = {"info": {"features": {"label": {"names": ["a"], "_type": "ClassLabel"}}}}
    for about, class_names in (({}, ("-1",)), ({"huggingface": json.dumps(classes)}, ())):
        table = pa.table({"image": [b"1"], "label": [-1]}).replace_schema_metadata(about)
        pq.write_table(table, tmp_path / "y.parquet")
        assert listed(tmp_path / "y.parquet").class_names == class_names
    pq.write_table(pa.table({"image": [b"1"], "label": [7.0]}), tmp_path / "y.parquet")
    assert listed(tmp_path / "y.parquet").class_names == ("7",)


def test_tables_with_other_columns(tmp_path: Path) -> None:
    """Each table is looked at before the work begins. A test split often has no labels."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

    def hf(**more: list[int]) -> pa.Table:
        return pa.table({"image": pa.array([{"bytes": b"J", "path": "x"}] * 2, kind), **more})

    pq.write_table(hf(label=[0, 1]), tmp_path / "1.parquet")
    pq.write_table(hf(), tmp_path / "2.parquet")
    images = listed(tmp_path / "*.parquet")
    assert images.rows.num_rows == 4
    assert images.unlabelled_because == "2.parquet/000000000 has no label"
    for columns, words in (
        (
            {"img": [b"1"]},
            r"2\.parquet has no column 'image', which .*1\.parquet has \(it has img\)",
        ),
        (
            {"image": ["x.jpg"]},
            r"2\.parquet: its column image has URIs, that of .*1\.parquet bytes",
        ),
    ):
        pq.write_table(pa.table(columns), tmp_path / "2.parquet")
        with pytest.raises(InputError, match=words):
            listed(tmp_path / "*.parquet")
    twice = pa.table([pa.array(["x"])] * 3, names=["path", "label", "label"])
    pq.write_table(twice, tmp_path / "2.parquet")
    with pytest.raises(InputError, match=r"2\.parquet has 2 columns named label: rename one"):
        listed(tmp_path / "2.parquet")


def test_a_null_image_may_have_a_path(pictures: Path) -> None:
    """As `datasets` writes images that were not embedded."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells: list[dict[str, Any]] = [
        {"bytes": b"first", "path": "nowhere.jpg"},
        {"bytes": None, "path": "near.jpg"},
        {"bytes": b"third", "path": None},
    ]
    table = pictures / "lists" / "x.parquet"
    pq.write_table(pa.table({"image": pa.array(cells, kind), "label": [3, 2, 1]}), table)
    assert [(i.source, i.data, i.label) for i in read(table)] == [
        ("x.parquet/000000000", b"first", 2),
        ("near.jpg", b"lists/near.jpg", 1),
        ("x.parquet/000000002", b"third", 0),
    ]
    cells[1]["path"] = "gone.jpg"
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), table)
    with pytest.raises(InputError, match=r"row 2: .*gone\.jpg does not exist"):
        listed(table)


@pytest.mark.parametrize("kind", ["binary", "struct"])
def test_a_parquet_file_may_hold_the_images(tmp_path: Path, bucket: Bucket, kind: str) -> None:
    columns: dict[str, list[Any]] = {
        "image": [f"image {n}".encode() * n for n in range(1, 12)],
        "mask": [None if n == 4 else f"mask {n}".encode() for n in range(11)],
        "label": list(range(11)),
    }
    rows = list(zip(columns["image"], columns["label"], columns["mask"], strict=True))
    if kind == "struct":
        for name in ("image", "mask"):
            columns[name] = [{"bytes": value, "path": "x.jpg"} for value in columns[name]]
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "part-0.parquet", row_group_size=4)
    pq.write_table(table.slice(0, 2), tmp_path / "part-1.parquet")
    bucket.upload(tmp_path, "p")
    url, _, options = bucket.url("p").partition("?")
    expected = [(f"part-0.parquet/{n:09d}", *row) for n, row in enumerate(rows)]
    expected += [(f"part-1.parquet/{n:09d}", *row) for n, row in enumerate(rows[:2])]
    for place in (tmp_path / "part-*.parquet", f"{url}/*.parquet?{options}"):
        images = read(place, mask_column="mask")
        assert [(i.source, i.data, i.label, i.mask) for i in images] == expected  # in order
        assert listed(place, mask_column="mask").rows["mask_offset"].null_count == 1


def test_a_parquet_column_may_name_images(pictures: Path) -> None:
    table = pa.table({"path": ["near.jpg", "sub/ü 1.jpg"], "cls": [7, 7]})
    pq.write_table(table, pictures / "lists" / "table.parquet")
    images = read(pictures / "lists" / "table.parquet")
    assert {(i.source, i.label) for i in images} == {("near.jpg", 0), ("sub/ü 1.jpg", 0)}
