"""Lists and tables that name images, or hold them."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from tests.s3_server import Bucket
from tests.source_reading import listed, read


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("lists/near.jpg", "lists/sub/ü 1.jpg", "pictures/far.jpg", "masks/near.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def test_a_text_list_has_a_path_or_a_url_a_line(pictures: Path, bucket: Bucket) -> None:
    bucket.put("x/remote.jpg", b"remote")
    url = bucket.url("x/remote.jpg")
    lines = ["near.jpg", "", f"{pictures}/pictures/far.jpg", "./sub/ü 1.jpg\r", url]
    (pictures / "lists" / "all.txt").write_text("\n".join(lines))
    images = read(pictures / "lists" / "all.txt")
    assert {image.source: image.data.decode() for image in images} == {
        "near.jpg": "lists/near.jpg",
        "../pictures/far.jpg": "pictures/far.jpg",
        "sub/ü 1.jpg": "lists/sub/ü 1.jpg",
        f"s3://{bucket.name}/x/remote.jpg": "remote",
    }
    assert not any(str(pictures) in image.source for image in images)


def test_a_file_url_and_names_that_are_not_utf8(pictures: Path) -> None:
    with open(os.fsencode(pictures) + b"/lists/\xff.jpg", "wb") as file:
        file.write(b"raw")
    url = f"file://{pictures}/lists/sub/%C3%BC%201.jpg"
    (pictures / "lists" / "all.txt").write_bytes(b"\xff.jpg\n" + url.encode() + b"\n")
    images = read(pictures / "lists" / "all.txt")
    assert {image.source: image.data for image in images} == {
        "\\xff.jpg": b"raw",
        "sub/ü 1.jpg": "lists/sub/ü 1.jpg".encode(),
    }


def test_a_remote_list_reaches_what_lies_beside_it(bucket: Bucket) -> None:
    for name in ("lists/near.jpg", "far.jpg"):
        bucket.put(name, name.encode())
    absolute = f"s3://{bucket.name}/far.jpg"  # without options: as the list is reached
    bucket.put("lists/all.txt", f"near.jpg\n../far.jpg\n{absolute}\n".encode())
    images = read(bucket.url("lists/all.txt"))
    assert {image.source: image.data.decode() for image in images} == {
        "near.jpg": "lists/near.jpg",
        "../far.jpg": "far.jpg",
        absolute: "far.jpg",
    }


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "lists" / "table.csv"
    path.write_text(text)
    return path


def test_a_csv_has_columns_of_images_labels_and_masks(pictures: Path) -> None:
    text = 'uri,label,mask,n\nnear.jpg,10,../masks/near.png,1\n"sub/ü 1.jpg",9,,2\n'
    path = write_csv(pictures, text)
    collected = listed(path, mask_column="mask")
    assert collected.class_names == ("9", "10")  # by value
    images = read(path, mask_column="mask")
    assert {(i.source, i.label, i.mask) for i in images} == {
        ("near.jpg", 1, b"masks/near.png"),
        ("sub/ü 1.jpg", 0, None),
    }
    assert {image.label for image in read(path, labels=False)} == {None}
    named = write_csv(pictures, "a,b\nnear.jpg,x\n")
    (image,) = read(named, image_column="a", label_column="b")
    assert (image.source, image.label) == ("near.jpg", 0)


def test_a_missing_label_means_no_labels(pictures: Path) -> None:
    path = write_csv(pictures, "uri,label\nnear.jpg,x\nsub/ü 1.jpg,\n")
    collected = listed(path)
    assert collected.unlabelled_because == "sub/ü 1.jpg has no label"
    collected = listed(write_csv(pictures, "uri,other\nnear.jpg,x\n"))
    assert (collected.class_names, collected.unlabelled_because) == ((), "")


@pytest.mark.parametrize("kind", ["binary", "struct"])
def test_a_parquet_file_may_hold_the_images(tmp_path: Path, kind: str) -> None:
    data = [f"image {n}".encode() * n for n in range(1, 12)]
    masks = [None if n == 4 else f"mask {n}".encode() for n in range(11)]
    cells: list[Any] = data
    mask_cells: list[Any] = masks
    if kind == "struct":
        cells = [{"bytes": value, "path": "x.jpg"} for value in data]
        mask_cells = [{"bytes": value, "path": None} for value in masks]
    table = pa.table({"image": cells, "label": list(range(11)), "mask": mask_cells})
    pq.write_table(table, tmp_path / "part-0.parquet", row_group_size=4)
    pq.write_table(table.slice(0, 2), tmp_path / "part-1.parquet")
    images = read(tmp_path / "part-*.parquet", mask_column="mask")
    rows = [(f"part-0.parquet/{n:09d}", data[n], n, masks[n]) for n in range(11)]
    rows += [(f"part-1.parquet/{n:09d}", data[n], n, masks[n]) for n in range(2)]
    assert [(i.source, i.data, i.label, i.mask) for i in images] == rows  # in order
    collected = listed(tmp_path / "part-*.parquet", mask_column="mask")
    assert collected.rows["mask_offset"].null_count == 1


def test_a_remote_parquet_file_is_read_by_rows(tmp_path: Path, bucket: Bucket) -> None:
    data = [os.urandom(1000) for _ in range(10)]
    pq.write_table(pa.table({"image": data}), tmp_path / "x.parquet", row_group_size=3)
    bucket.upload(tmp_path, "p")
    images = read(bucket.url("p/x.parquet"))
    assert [image.data for image in images] == data


def test_a_parquet_column_may_name_images(pictures: Path) -> None:
    table = pa.table({"path": ["near.jpg", "sub/ü 1.jpg"], "cls": [7, 7]})
    pq.write_table(table, pictures / "lists" / "table.parquet")
    images = read(pictures / "lists" / "table.parquet")
    assert {(i.source, i.label) for i in images} == {("near.jpg", 0), ("sub/ü 1.jpg", 0)}


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("uri\nnear.jpg\n", {"image_column": "nope"}, "no column 'nope' .*it has uri"),
        ("uri\nnear.jpg\n", {"label_column": "nope"}, r"no column 'nope' \(--label-column\)"),
        ("uri\nnear.jpg\n", {"mask_column": "nope"}, r"no column 'nope' \(--mask-column\)"),
        ("a,b\nnear.jpg,x\n", {}, "none that is known by its name: name it with --image-column"),
        ("uri,path\nnear.jpg,x\n", {}, "any of uri, path: name it with --image-column"),
        ("uri\nnear.jpg\nnope.jpg\n", {}, r"table\.csv, row 2: .*nope\.jpg does not exist"),
        ("uri,label\nnear.jpg,1\n,1\n", {}, "row 2: the image has no URI"),
        ("uri\nsub\n", {}, "row 1: .*sub does not exist or is not a file"),
        ("uri\nhttp://x/y.jpg\n", {}, "row 1: .*http:// is not supported"),
        ("uri\nnear.jpg,1,2\n", {}, r"table\.csv cannot be read: .*Expected 1 columns, got 3"),
        ("uri\n", {}, "it has no rows"),
        ("", {}, "cannot be read: Empty CSV file"),
        ("uri\nnear.jpg\nsub/../near.jpg\n", {}, r"'near\.jpg' is listed twice"),
    ],
)
def test_tables_that_cannot_be_used_are_named(
    pictures: Path, text: str, options: dict[str, str], words: str
) -> None:
    path = write_csv(pictures, text)
    with pytest.raises(InputError, match=words):
        read(path, **options)


def test_remote_entries_that_cannot_be_reached_are_named(pictures: Path, bucket: Bucket) -> None:
    path = pictures / "lists" / "all.txt"
    bucket.put("x/there.jpg", b"1")
    gone = bucket.url("x/gone.jpg")
    path.write_text(gone)
    with pytest.raises(InputError, match=r"row 1: s3://.*/x/gone\.jpg does not exist"):
        read(path)
    path.write_text(f"{bucket.url('x/there.jpg')}\n{gone}")
    with pytest.raises(InputError, match=r"s3://.*/x/gone\.jpg has vanished from"):
        read(path)
    path.write_text("s3://only-a-bucket")
    with pytest.raises(InputError, match=r"row 1: .* names no object in the bucket"):
        read(path)
    bucket.put("lists/all.txt", b"/local/x.jpg\n")
    with pytest.raises(InputError, match=r"row 1: /local/x\.jpg is a local path in a remote list"):
        read(bucket.url("lists/all.txt"))
    bucket.put("lists/all.txt", b"../../x.jpg\n")
    with pytest.raises(InputError, match="leads out of the bucket"):
        read(bucket.url("lists/all.txt"))


def test_files_that_are_not_there_or_no_tables_are_named(tmp_path: Path, bucket: Bucket) -> None:
    for name in ("x.txt", "x.csv", "x.parquet"):
        with pytest.raises(InputError, match=rf"no such file: .*{name}"):
            read(tmp_path / name)
        with pytest.raises(InputError, match=rf"no such file: s3://.*{name}"):
            read(bucket.url(name))
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"x\.parquet cannot be read: .*[Pp]arquet"):
        read(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"nothing below .* matches \*\.csv"):
        read(tmp_path / "*.csv")
    (tmp_path / "x.txt").write_text("x.jpg\n")
    with pytest.raises(InputError, match="a text list has no columns"):
        read(tmp_path / "x.txt", label_column="x")
    pq.write_table(pa.table({"image": [b"1"], "mask": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="image and mask have to be both URIs or both bytes"):
        read(tmp_path / "x.parquet", mask_column="mask")
