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


def test_names() -> None:
    images = ("a.jpg", "A.JPEG", "a.b.webp", "a.heic", "a.jxl", "\udcff\udcfe.png")
    assert all(map(has_image_suffix, images))
    others = ("a.txt", "a.jpg.part", "jpg", "._a.jpg", "a.\udcff\udcfe", "b/._a.jpg", "b.png/a.txt")
    assert not any(map(has_image_suffix, others))
    # only files without a suffix are looked into
    assert [may_be_image(name) for name in ("noextension", "a.txt", ".jpg")] == [True, False, False]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000"])
def test_signatures(kind: str) -> None:
    buffer = BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, kind)
    assert has_image_signature(buffer.getvalue()[:HEAD_BYTES])


@pytest.mark.parametrize("head", [b"", b"\xff\xd8", b"RIFF1234WAVEfmt ", b"#!/bin/sh\n", bytes(16)])
def test_other_files_have_none(head: bytes) -> None:
    assert not has_image_signature(head)
