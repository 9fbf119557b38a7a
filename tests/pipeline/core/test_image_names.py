"""Images by their names, and by their first bytes: those that Pillow itself writes."""

from io import BytesIO

import pytest
from PIL import Image

from pipeline.core.image_names import (
    HEAD_BYTES,
    has_image_signature,
    has_image_suffix,
    may_be_image,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("A.JPEG", True),
        ("a.b.webp", True),
        ("a.heic", True),
        ("a.jxl", True),
        ("a.txt", False),
        ("a.jpg.part", False),
        ("jpg", False),
        ("._a.jpg", False),
        ("\udcff\udcfe.png", True),
        ("a.\udcff\udcfe", False),
        ("b/._a.jpg", False),
        ("b.png/a.txt", False),
    ],
)
def test_suffixes(name: str, expected: bool) -> None:
    assert has_image_suffix(name) is expected


def test_only_files_without_a_suffix_are_looked_into() -> None:
    assert may_be_image("noextension")
    assert not may_be_image("a.txt")
    assert not may_be_image(".jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000"])
def test_signatures(kind: str) -> None:
    buffer = BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, kind)
    assert has_image_signature(buffer.getvalue()[:HEAD_BYTES])


@pytest.mark.parametrize("head", [b"", b"\xff\xd8", b"RIFF1234WAVEfmt ", b"#!/bin/sh\n", bytes(16)])
def test_other_files_have_none(head: bytes) -> None:
    assert not has_image_signature(head)
