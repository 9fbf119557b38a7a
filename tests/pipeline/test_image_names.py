"""Images by their names, and by their first bytes: those that Pillow itself writes."""

from io import BytesIO

import pytest
from PIL import Image

from pipeline.image_names import (
    HEAD_BYTES,
    has_image_signature,
    has_image_suffix,
    may_be_image,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a.jpg", True),
        (b"A.JPEG", True),
        (b"a.b.webp", True),
        (b"a.heic", True),
        (b"a.jxl", True),
        (b"a.txt", False),
        (b"a.jpg.part", False),
        (b"jpg", False),
        (b"._a.jpg", False),
        (b"\xff\xfe.png", True),
        (b"a.\xff\xfe", False),
    ],
)
def test_suffixes(name: bytes, expected: bool) -> None:
    assert has_image_suffix(name) is expected


def test_only_files_without_a_suffix_are_looked_into() -> None:
    assert may_be_image(b"noextension")
    assert not may_be_image(b"a.txt")
    assert not may_be_image(b".jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000"])
def test_signatures(kind: str) -> None:
    buffer = BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, kind)
    assert has_image_signature(buffer.getvalue()[:HEAD_BYTES])


@pytest.mark.parametrize("head", [b"", b"\xff\xd8", b"RIFF1234WAVEfmt ", b"#!/bin/sh\n", bytes(16)])
def test_other_files_have_none(head: bytes) -> None:
    assert not has_image_signature(head)
