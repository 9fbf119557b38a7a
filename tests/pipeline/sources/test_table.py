"""Lists and tables that name images, or hold them."""

import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from tests.s3_server import Bucket
from tests.source_reading import found, listed, read


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


def test_captions_of_several_lines(pictures: Path) -> None:
    """Cells with line breaks, also across the blocks in which arrow reads a file."""
    caption = '"' + "two\nlines " * 20_000 + '"'
    rows = "".join(f"sub/../near.jpg?{n},{caption}\n" for n in range(100))
    (pictures / "lists" / "long.csv").write_text("uri,caption\n" + rows)
    with pytest.raises(InputError, match=r"row 1: .*near\.jpg\?0 does not exist"):
        listed(pictures / "lists" / "long.csv")  # row 1 is found: the table is read
    text = f"uri,caption,label\nnear.jpg,{caption},1\n" + f"sub/ü 1.jpg,{caption},2\n"
    assert listed(write_csv(pictures, text)).class_names == ("1", "2")


@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        (("10.0", "2.0", "0.0"), ("0", "2", "10")),
        (("10", "2.5", "-1"), ("-1", "2.5", "10")),
        (("--5", "2", "10"), ("--5", "10", "2")),
        (("1_0", "2", "10"), ("10", "1_0", "2")),
        (("nan", "2", "10"), ()),
        (("NaN", "x", "y"), ()),
    ],
)
def test_labels_that_are_numbers(
    tmp_path: Path, labels: tuple[str, ...], class_names: tuple[str, ...]
) -> None:
    for number in range(len(labels)):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    rows = "".join(f"{number}.jpg,{label}\n" for number, label in enumerate(labels))
    (tmp_path / "x.csv").write_text(f"path,label\n{rows}")
    images = listed(tmp_path / "x.csv")
    assert images.class_names == class_names
    why = "" if class_names else "0.jpg has no label"
    assert images.unlabelled_because == why


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
        ("uri,label\nnear.jpg,1\n,\nfar.jpg,1\n", {}, "row 2: the image has no URI"),
        ("uri,label\n,\n,\n", {}, "it has no rows"),
        ("uri\nsub\n", {}, "row 1: .*sub does not exist or is not a file"),
        ("uri\nhttp://x/y.jpg\n", {}, "row 1: .*http:// is not supported.*; download the"),
        ("uri\nnear.jpg,1,2\n", {}, r"table\.csv cannot be read: .*Expected 1 columns, got 3"),
        ("uri\n", {}, "it has no rows"),
        (
            "uri\nnear.jpg \n",
            {},
            r"near\.jpg .*does not exist .*: there are spaces around its name",
        ),
        ("uri\n" + "9j/4" * 2000, {}, r"row 1: 9j/4.{36}\.\.\. is no path or URL \(base64"),
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
    kinds = pa.table({"image": [b"1"], "label": [[1, 2]]})
    pq.write_table(kinds, tmp_path / "x.parquet")
    wanted = (
        r"x\.parquet: wanted one value in each cell of its column label, got list<.*int64>: name"
    )
    with pytest.raises(InputError, match=wanted):
        read(tmp_path / "x.parquet")
    assert len(read(tmp_path / "x.parquet", labels=False)) == 1
    pq.write_table(kinds, tmp_path / "y.parquet")
    pq.write_table(pa.table({"image": [b"1"], "label": [1]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"y\.parquet: wanted one value .* column label"):
        read(tmp_path / "*.parquet")
    (tmp_path / "y.parquet").unlink()
    wide = pa.table({f"c{number}": [1] for number in range(12)})
    pq.write_table(wide, tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"\(it has c0, c1, .*, c9 and 2 more\)$"):
        read(tmp_path / "x.parquet")
    pq.write_table(pa.table({"image": [b"1"], "mask": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="image and mask have to be both URIs or both bytes"):
        read(tmp_path / "x.parquet", mask_column="mask")


def test_a_link_to_a_list_means_the_list(pictures: Path) -> None:
    (pictures / "lists" / "all.txt").write_text("near.jpg\n")
    (pictures / "newest").symlink_to("lists/all.txt")
    assert found(pictures / "newest") == {"near.jpg": b"lists/near.jpg"}


def test_names_as_macos_writes_them(pictures: Path) -> None:
    """With accents apart, in the file system and in the table, or in either of them."""
    names = [unicodedata.normalize(form, "türen.jpg") for form in ("NFC", "NFD")]
    for there in names:
        (pictures / "lists" / there).write_bytes(b"a door")
        for given in names:
            assert found(write_csv(pictures, f"path\n{given}\n")) == {given: b"a door"}
        (pictures / "lists" / there).unlink()


def test_tables_as_other_programs_write_them(pictures: Path) -> None:
    """Excel: semicolons, tabs, other encodings, blank rows. Windows: backslashes. polars: views."""
    blank = found(write_csv(pictures, "path,label\nnear.jpg,b\nsub/ü 1.jpg,a\n,\n , \n"))
    assert set(blank) == {"near.jpg", "sub/ü 1.jpg"}
    assert listed(pictures / "lists" / "table.csv").ignored == {"blank rows": 2}
    excels = write_csv(pictures, 'sep=|\npath|label\nnear.jpg| b \n"sub/ü 1.jpg"|b\n')
    assert listed(excels).class_names == ("b",)
    assert set(found(excels)) == {"near.jpg", "sub/ü 1.jpg"}
    (pictures / "lists" / "all.txt").write_bytes("near.jpg\n".encode("utf-16"))
    with pytest.raises(
        InputError, match=r"all\.txt cannot be read: it is UTF-16 \(save it as UTF-8"
    ):
        listed(pictures / "lists" / "all.txt")
    for lines in ("path;label\nnear.jpg;b\nsub/ü 1.jpg;a\n", "path\tlabel\nnear.jpg\tx, y\n"):
        images = found(write_csv(pictures, f"\ufeff{lines}"))
        assert set(images) == {row[:-2] for row in lines.replace("x, y", "x").split("\n")[1:-1]}
    assert listed(write_csv(pictures, "path;label\nnear.jpg;a,b\n")).class_names == ("a,b",)
    path = pictures / "lists" / "table.csv"
    for encoding in ("utf-16", "cp1252"):
        path.write_bytes("path,label\nsub/ü 1.jpg,a\n".encode(encoding))
        with pytest.raises(InputError, match=r"table\.csv cannot be read: .*\(save it as UTF-8\)"):
            listed(path)
    with pytest.raises(InputError, match=r"sub\\1\.jpg does not exist .*: write / in the place"):
        listed(write_csv(pictures, "path\nsub\\1.jpg\n"))
    spaced = listed(write_csv(pictures, ' path ; label\n"near.jpg";b\n'))
    assert spaced.class_names == ("b",)
    with pytest.raises(InputError, match="2 columns named label: rename one"):
        listed(write_csv(pictures, "path,label, label\nnear.jpg,a,b\n"))
    for kind in (pa.binary_view(), pa.binary(1)):
        table = pa.table({"image": pa.array([b"x", b"y"], pa.binary()).cast(kind)})
        pq.write_table(table, pictures / "view.parquet")
        assert list(found(pictures / "view.parquet").values()) == [b"x", b"y"]
