"""Folders as people have them: deep, with links, with other things in them."""

import os
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.sources import list_folder


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")


def test_class_folders_become_labels(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.jpg", "cat/deep/er/2.PNG", "cat/3.webp", "cat/notes.txt", "readme.md")
    listing = list_folder(tmp_path, labels=True)
    assert listing.class_names == ("cat", "dog")
    assert {(i.source, i.label, i.num_bytes) for i in listing.images} == {
        ("dog/1.jpg", 1, 5),
        ("cat/deep/er/2.PNG", 0, 5),
        ("cat/3.webp", 0, 5),
    }
    assert listing.num_ignored == 2
    assert listing.unlabelled_because == ""


def test_one_image_outside_of_class_folders_means_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.jpg", "cat/2.jpg", "3.jpg")
    listing = list_folder(tmp_path, labels=True)
    assert listing.class_names == ()
    assert {image.label for image in listing.images} == {None}
    assert listing.unlabelled_because == "3.jpg lies in no class folder"


def test_labels_can_be_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.jpg")
    listing = list_folder(tmp_path, labels=False)
    assert (listing.class_names, listing.unlabelled_because) == ((), "")
    assert listing.images[0].label is None


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    touch(data, "b/1.jpg")
    touch(elsewhere, "2.jpg")
    (data / "a").symlink_to(data / "b")  # the same folder again: read once, by its own path
    (data / "b" / "loop").symlink_to(data)
    (data / "c").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(data / "b")
    (data / "b" / "3.jpg").symlink_to(elsewhere / "2.jpg")
    listing = list_folder(data, labels=True)
    assert sorted(image.source for image in listing.images) == ["b/1.jpg", "b/3.jpg", "c/2.jpg"]
    assert listing.class_names == ("b", "c")


def test_names_that_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/._1.jpg", "a/jpg", "a/1.jpg.part", "a/2.mp4")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    listing = list_folder(tmp_path, labels=True)
    assert [image.source for image in listing.images] == ["a/1.jpg"]
    assert listing.num_ignored == 5


def test_names_that_are_not_utf8_can_be_opened(tmp_path: Path) -> None:
    touch(tmp_path, "a/ünï 图.jpg")
    raw = os.fsencode(tmp_path) + b"/a/\xff.jpg"
    with open(raw, "wb") as file:
        file.write(b"x")
    images = {image.source: image for image in list_folder(tmp_path, labels=True).images}
    assert set(images) == {"a/ünï 图.jpg", "a/\\xff.jpg"}
    assert images["a/\\xff.jpg"].path == b"a/\xff.jpg"


def test_what_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder: .*nowhere"):
        list_folder(tmp_path / "nowhere", labels=True)
    touch(tmp_path, "x/readme.txt")
    with pytest.raises(InputError, match=r"no image below .*1 other files"):
        list_folder(tmp_path, labels=True)
    with pytest.raises(InputError, match="is a file"):
        list_folder(tmp_path / "x" / "readme.txt", labels=True)
    (tmp_path / "x" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match=r"gone\.jpg.*No such file"):
        list_folder(tmp_path, labels=True)


def test_a_file_without_a_suffix_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.jpg", "dog/LICENSE", "dog/empty", "dog/.hidden")
    (tmp_path / "dog" / "empty").write_bytes(b"")
    (tmp_path / "dog" / "nowhere").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "dog" / "pipe")
    (tmp_path / "dog" / ".hidden").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "dog" / "notes.txt").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "dog" / "photograph").write_bytes(b"\xff\xd8\xff\xe0 and so on")
    listing = list_folder(tmp_path, labels=True)
    assert sorted(image.source for image in listing.images) == ["dog/1.jpg", "dog/photograph"]
    assert listing.num_ignored == 6
