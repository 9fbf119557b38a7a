"""Folders as people have them: deep, with links, with other things in them; prefixes alike."""

import os
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.sources.listing import Collected, describe_ignored
from tests.s3_server import Bucket
from tests.source_reading import listed


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")


def names(images: Collected) -> list[str]:
    return sorted(images.rows["source"].to_pylist())


def test_class_folders_become_labels_in_a_folder_and_a_bucket(
    tmp_path: Path, bucket: Bucket
) -> None:
    touch(tmp_path, "dog/1.jpg", "cat/deep/er/2.PNG", "cat/3 #%20.webp", "cat/notes.txt", "no.md")
    bucket.upload(tmp_path, "some/data")
    bucket.put("some/data-not/x.jpg", b"x")
    for place in (tmp_path, bucket.url("some/data/")):
        images = listed(place)
        assert images.class_names == ("cat", "dog")
        rows = images.rows.select(["source", "label", "num_bytes"]).to_pylist()
        assert {tuple(row.values()) for row in rows} == {
            ("dog/1.jpg", 1, 5),
            ("cat/deep/er/2.PNG", 0, 5),
            ("cat/3 #%20.webp", 0, 5),
        }
        assert (images.ignored, images.unlabelled_because) == ({".txt": 1, ".md": 1}, "")


def test_images_without_a_class(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.jpg", "cat/2.jpg", "3.jpg")
    images = listed(tmp_path)
    assert "label" not in images.rows.column_names
    assert (images.class_names, images.unlabelled_because) == ((), "3.jpg lies in no class folder")
    images = listed(tmp_path, labels=False)
    assert (images.class_names, images.unlabelled_because) == ((), "")


def test_names_that_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/._1.jpg", "a/jpg", "a/1.jpg.part", "a/2.mp4", "a/3.mp4")
    for name in ("a/1.tif.ovr", "a/1.DNG"):  # TIFFs of what is there already
        touch(tmp_path, name)
        (tmp_path / name).write_bytes(b"II*\0" + bytes(20))
    touch(tmp_path, "@eaDir/a/1.jpg", ".cache/1.jpg")  # no classes, nor images without one
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    images = listed(tmp_path)
    assert (names(images), images.class_names) == (["a/1.jpg"], ("a",))
    assert images.ignored == {
        "hidden": 3,
        ".mp4": 2,
        ".part": 1,
        ".ovr": 1,
        ".dng": 1,
        "without a suffix": 1,
        "pipes and devices": 1,
    }
    assert describe_ignored(images.ignored) == (
        "10 other files ignored (3 hidden, 2 .mp4, 1 .dng, 1 .ovr, 1 .part, 1 pipes and devices, "
        "1 without a suffix)"
    )
    assert describe_ignored({}) == "0 other files ignored"
    many = {f".{n:02d}": 100 - n for n in range(10)}
    assert describe_ignored(many).endswith("93 .07, 183 of other kinds)")


def test_images_with_odd_suffixes_are_known_by_their_bytes(tmp_path: Path, bucket: Bucket) -> None:
    odd = ("a/1.jpg?w=640", "a/2.jpg:large", "a/3.jpg.1", "a/4.pjpeg", "a/5")
    touch(tmp_path, *odd, "a/6.mpo")
    for name in odd:
        (tmp_path / name).write_bytes(b"\xff\xd8\xff and more of a JPEG")
    bucket.upload(tmp_path, "odd")
    for place in (tmp_path, bucket.url("odd")):
        images = listed(place)
        assert (names(images), images.ignored) == ([*odd, "a/6.mpo"], {})


def test_names_that_are_not_utf8_can_be_opened(tmp_path: Path) -> None:
    touch(tmp_path, "a/ünï 图.jpg")
    with open(os.fsencode(tmp_path) + b"/a/\xff.jpg", "wb") as file:
        file.write(b"x")
    images = listed(tmp_path)
    uris = dict(zip(*(images.rows[c].to_pylist() for c in ("source", "uri")), strict=True))
    assert uris == {"a/ünï 图.jpg": None, "a/\\xff.jpg": b"a/\xff.jpg"}


def test_patterns_choose_among_the_files_below(tmp_path: Path, bucket: Bucket) -> None:
    touch(tmp_path, "a/x/1.jpg", "a/y/2.jpg", "b/x/3.png", "b/x/4.txt", "b/5.jpg", "top.jpg")
    bucket.upload(tmp_path, "data")
    cases = {
        "*/*.jpg": ["b/5.jpg"],
        "**/*.jpg": ["a/x/1.jpg", "a/y/2.jpg", "b/5.jpg", "top.jpg"],
        "*/x/*": ["a/x/1.jpg", "b/x/3.png"],
        "[!b]/**": ["a/x/1.jpg", "a/y/2.jpg"],
        "**": ["a/x/1.jpg", "a/y/2.jpg", "b/5.jpg", "b/x/3.png", "top.jpg"],
    }
    for pattern, expected in cases.items():
        assert names(listed(tmp_path / pattern)) == expected
        path, _, options = bucket.url("data").partition("?")
        assert names(listed(f"{path}/{pattern}?{options}")) == expected
    assert names(listed(tmp_path / "?/x/[1-3].*")) == ["a/x/1.jpg", "b/x/3.png"]
    assert names(listed(tmp_path / "{a/y,b/x}/{0..9}.*")) == ["a/y/2.jpg", "b/x/3.png"]
    with pytest.raises(InputError, match="its braces are not balanced"):
        listed(tmp_path / "{a/*.jpg")
    touch(tmp_path, "{a}/a/1.jpg")
    assert names(listed(tmp_path / "{a}")) == ["a/1.jpg"]  # a folder of that name
    touch(tmp_path, "mine [2024]/a/1.jpg")
    assert names(listed(tmp_path / "mine [2024]")) == ["a/1.jpg"]  # a folder of that name
    images = listed(tmp_path / "a/x/*.jpg")  # relative to what comes before the wildcard
    assert (names(images), images.unlabelled_because) == (
        ["1.jpg"],
        "1.jpg lies in no class folder",
    )


def test_what_cannot_be_listed_is_named(tmp_path: Path, bucket: Bucket) -> None:
    with pytest.raises(InputError, match=r"no such folder: .*nowhere"):
        listed(tmp_path / "nowhere")
    touch(tmp_path, "x/readme.md", "x/1.tar", "x/2.tar")
    with pytest.raises(
        InputError,
        match=r"no image below .*\(3 other files ignored \(2 \.tar, 1 \.md\)\): .*/\*\.tar takes",
    ):
        listed(tmp_path)
    with pytest.raises(InputError, match=r"readme\.md is a file: wanted are a folder, a pattern"):
        listed(tmp_path / "x" / "readme.md")
    with pytest.raises(InputError, match=r"no image below .*only names that match"):
        listed(tmp_path / "*.jpg")
    (tmp_path / "x" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match=r"gone\.jpg.*No such file"):
        listed(tmp_path)
    with pytest.raises(InputError, match=r"no image below s3://.*/nothing \(0 other files"):
        listed(bucket.url("nothing"))
    with pytest.raises(InputError, match="no image below s3://"):
        listed(bucket.url())  # an empty bucket
    with pytest.raises(InputError, match=r"s3://nosuch/x cannot be listed: 404 Not Found"):
        listed(bucket.url("x", bucket="nosuch"))
    with bucket.no_access(), pytest.raises(InputError, match="cannot be listed: 403 Forbidden"):
        listed(bucket.url("x"))
    with pytest.raises(InputError, match=r"--label-column x: image files have no columns"):
        listed(tmp_path, label_column="x")
