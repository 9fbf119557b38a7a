"""Images by their names, and by their first bytes: those that Pillow itself writes."""

from io import BytesIO

import pytest
from PIL import Image

from pipeline.core.image_names import HEAD_BYTES, begins_image, has_image_suffix, is_image, kind_of


def unread() -> bytes:
    raise AssertionError("only files whose suffix says nothing are looked into")


def test_names() -> None:
    images = ("a.jpg", "A.JPEG", "a.b.webp", "a.heic", "a.jxl", "\udcff\udcfe.png")
    others = (
        "a.txt",
        "a.jpg.part",
        "._a.jpg",
        ".jpg",
        ".a.jpg",
        "b/._a.jpg",
        "b.png/a.txt",
    )
    for name in images + others:
        assert has_image_suffix(name) == is_image(name, unread) == (name in images)
    assert not has_image_suffix("jpg")


@pytest.mark.parametrize(
    "folder",
    [".x", "@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "lost+found", ".ipynb_checkpoints"],
)
def test_what_lies_in_folders_of_tools_is_hidden(folder: str) -> None:
    for name in (f"{folder}/a.jpg", f"b/{folder}/c/a.jpg"):
        assert not is_image(name, unread)
        assert kind_of(name) == "hidden"
    assert is_image("a.x/b.jpg", unread)
    assert is_image("../a/./b.jpg", unread)  # of a list: parts that only lead there


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "BMP", "MPO"]
)
def test_signatures(kind: str) -> None:
    buffer = BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, kind)
    head = buffer.getvalue()[:HEAD_BYTES]
    # what crawlers, wget and cameras make of names
    for name in ("b.png/noextension", "a.jpg?w=640", "a.jpg:large", "a.jpg.1", "a.jpeg@400w"):
        assert is_image(name, lambda: head)


def test_brands_of_heif() -> None:
    for brand in (b"heic", b"heix", b"mif1", b"avis"):
        assert begins_image(b"\0\0\0\x18ftyp" + brand + bytes(6))
    assert not begins_image(b"\0\0\0\x18ftypmp42" + bytes(6))


@pytest.mark.parametrize(
    "head",
    [b"", b"\xff\xd8", b"RIFF1234WAVEfmt ", b"#!/bin/sh\n", bytes(18), b"BMW is a car maker"],
)
def test_other_files_have_none(head: bytes) -> None:
    assert not is_image("jpg", lambda: head)
