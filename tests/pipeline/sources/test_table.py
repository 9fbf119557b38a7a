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


def found(place: str | Path, **options: Any) -> dict[str, bytes]:  # noqa: ANN401
    return {image.source: image.data for image in read(place, **options)}


def test_a_text_list_has_a_path_or_a_url_a_line(pictures: Path, bucket: Bucket) -> None:
    bucket.put("x/remote.jpg", b"remote")
    with open(os.fsencode(pictures) + b"/lists/\xff.jpg", "wb") as file:
        file.write(b"raw")
    lines = ["near.jpg", "", f"{pictures}/pictures/far.jpg", bucket.url("x/remote.jpg")]
    lines += [f"file://{pictures}/lists/sub/%C3%BC%201.jpg\r", "./\udcff.jpg\r"]
    (pictures / "lists" / "all.txt").write_bytes(os.fsencode("\n".join(lines)))
    assert found(pictures / "lists" / "all.txt") == {
        "near.jpg": b"lists/near.jpg",
        "../pictures/far.jpg": b"pictures/far.jpg",  # no absolute path
        "sub/ü 1.jpg": "lists/sub/ü 1.jpg".encode(),
        f"s3://{bucket.name}/x/remote.jpg": b"remote",
        "\\xff.jpg": b"raw",
    }


def test_a_remote_list_reaches_what_lies_beside_it(bucket: Bucket) -> None:
    for name in ("lists/near.jpg", "far.jpg"):
        bucket.put(name, name.encode())
    absolute = f"s3://{bucket.name}/far.jpg"  # without options: as the list is reached
    bucket.put("lists/all.txt", f"near.jpg\n../far.jpg\n{absolute}\n".encode())
    near = {"near.jpg": b"lists/near.jpg", "../far.jpg": b"far.jpg", absolute: b"far.jpg"}
    assert found(bucket.url("lists/all.txt")) == near


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
    (image,) = read(write_csv(pictures, "a,b\nnear.jpg,x\n"), image_column="a", label_column="b")
    assert (image.source, image.label) == ("near.jpg", 0)
    for text, why in (
        ("uri,label\nnear.jpg,x\nsub/ü 1.jpg,\n", "sub/ü 1.jpg has no label"),
        ("uri,other\nnear.jpg,x\n", ""),
    ):
        collected = listed(write_csv(pictures, text))
        assert (collected.class_names, collected.unlabelled_because) == ((), why)


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
    for text, words in (
        (gone, r"row 1: s3://.*/x/gone\.jpg does not exist"),
        (f"{bucket.url('x/there.jpg')}\n{gone}", r"s3://.*/x/gone\.jpg has vanished from"),
        ("s3://only-a-bucket", r"row 1: .* names no object in the bucket"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read(path)
    for text, words in (
        ("/local/x.jpg", r"row 1: /local/x\.jpg is a local path in a remote list"),
        ("../../x.jpg", "leads out of the bucket"),
    ):
        bucket.put("lists/all.txt", text.encode())
        with pytest.raises(InputError, match=words):
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


def test_a_link_to_a_list_means_the_list(pictures: Path) -> None:
    (pictures / "lists" / "all.txt").write_text("near.jpg\n")
    (pictures / "newest").symlink_to("lists/all.txt")
    assert found(pictures / "newest") == {"near.jpg": b"lists/near.jpg"}
