"""Images by their names, and by their first bytes: those that Pillow itself writes."""

from io import BytesIO

import pytest
from PIL import Image

from pipeline.core.image_names import HEAD_BYTES, has_image_suffix, is_image


def unread() -> bytes:
    raise AssertionError("only files without a suffix are looked into")


def test_names() -> None:
    images = ("a.jpg", "A.JPEG", "a.b.webp", "a.heic", "a.jxl", "\udcff\udcfe.png")
    others = (
        "a.txt",
        "a.jpg.part",
        "._a.jpg",
        ".jpg",
        "a.\udcff\udcfe",
        "b/._a.jpg",
        "b.png/a.txt",
    )
    for name in images + others:
        assert has_image_suffix(name) == is_image(name, unread) == (name in images)
    assert not has_image_suffix("jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000"])
def test_signatures(kind: str) -> None:
    buffer = BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, kind)
    assert is_image("b.png/noextension", lambda: buffer.getvalue()[:HEAD_BYTES])


@pytest.mark.parametrize("head", [b"", b"\xff\xd8", b"RIFF1234WAVEfmt ", b"#!/bin/sh\n", bytes(16)])
def test_other_files_have_none(head: bytes) -> None:
    assert not is_image("jpg", lambda: head)
