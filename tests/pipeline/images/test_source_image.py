"""What precompute stores is what training decodes; what is damaged is refused with a reason."""

from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from pipeline.core.errors import ImageError
from pipeline.images.codecs import decode_stored
from pipeline.images.source_image import decode_source, shrink_source

LOSSLESS: tuple[dict[str, bool], dict[str, bool]] = {}, {"lossless": True}


def picture(width: int = 48, height: int = 32, mode: str = "RGB") -> Image.Image:
    """A smooth picture without symmetry: red grows to the right, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1)
    pixels = np.stack([red, green, np.full_like(red, 40)], axis=2).round().astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "ext"),
    [
        (encoded(picture(), "JPEG", quality=95), "jpg"),
        (encoded(picture(), "JPEG", quality=95, progressive=True), "jpg"),
        (encoded(picture(mode="L"), "JPEG"), "jpg"),
        (encoded(picture(), "PNG"), "png"),
        (encoded(picture(mode="L"), "PNG"), "png"),
        (encoded(picture(), "WEBP"), "webp"),
        # what phones write: a JPEG with more pictures behind the first
        (
            encoded(picture(), "MPO", save_all=True, append_images=[picture(8, 8)], quality=95),
            "jpg",
        ),
        (encoded(picture(1, 1), "PNG"), "png"),
        (encoded(picture(3000, 1), "PNG"), "png"),
    ],
)
def test_common_bytes_are_stored_untouched(data: bytes, ext: str) -> None:
    decoded = decode_source(data)
    assert decoded.stored_bytes == data
    assert decoded.ext == ext
    assert np.array_equal(decoded.pixels, decode_stored(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_decoders_turn_the_picture_alike(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), kind, exif=exif, **LOSSLESS[kind == "WEBP"])
    upright = np.asarray(picture())
    if orientation >= 5:
        upright = upright.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        upright = upright[::-1]
    if orientation in (2, 3, 6, 7):
        upright = upright[:, ::-1]
    decoded = decode_source(data)
    stored = decode_stored(decoded.stored_bytes)
    assert np.array_equal(decoded.pixels, stored)
    assert stored.shape == upright.shape
    assert np.abs(stored.astype(int) - upright).mean() < 8  # JPEG's loss on a smooth picture


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (encoded(picture(mode="CMYK"), "JPEG", quality=95), "cmyk"),
        (encoded(picture(), "TIFF"), "tiff"),
        (encoded(picture(), "BMP"), "bmp"),
        (encoded(picture(), "AVIF", quality=95), "avif"),
        (encoded(picture(mode="P"), "PNG"), "palette"),
        (encoded(picture(), "GIF"), "gif"),
    ],
)
def test_other_formats_become_rgb_png(data: bytes, mode: str) -> None:
    decoded = decode_source(data)
    assert decoded.ext == "png"
    assert Image.open(BytesIO(decoded.stored_bytes)).mode == "RGB"
    assert np.array_equal(decode_stored(decoded.stored_bytes), decoded.pixels)
    expected = np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decoded.pixels - expected).max() == 0, mode


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    clear.putpixel((0, 0), (10, 20, 30, 255))
    for kind in ("PNG", "WEBP"):
        data = encoded(clear, kind, **LOSSLESS[kind == "WEBP"])
        decoded = decode_source(data)
        assert decoded.pixels[0, 0].tolist() == [10, 20, 30]
        assert decoded.pixels[2, 2].tolist() == [255, 255, 255]
        assert decoded.stored_bytes != data
    keyed = encoded(Image.new("RGB", (4, 4), (9, 9, 9)), "PNG", transparency=(9, 9, 9))
    assert decode_source(keyed).pixels.min() == 255


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    for kind in ("GIF", "WEBP", "PNG"):
        more = {"append_images": frames[1:], **LOSSLESS[kind == "WEBP"]}
        data = encoded(frames[0], kind, save_all=True, **more)
        decoded = decode_source(data)
        assert decoded.ext == "png", kind
        assert decoded.pixels[4, 4].tolist() == [255, 0, 0], kind


def test_full_sixteen_bits_keep_the_high_byte() -> None:
    values = np.array([[0, 255, 256, 4095, 65535]], dtype=np.uint16)
    high = (values >> 8).astype(np.uint8)
    _, grey = cv2.imencode(".png", values)
    _, colour = cv2.imencode(".png", np.repeat(values[..., None], 3, axis=2))
    for data in (grey.tobytes(), colour.tobytes(), encoded(Image.fromarray(values), "TIFF")):
        decoded = decode_source(data)
        assert decoded.ext == "png"
        assert decoded.stored_bytes != data
        assert decoded.pixels[..., 0].tolist() == high.tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
        (np.array([[0, 256, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-100, 0, 100]], np.int32), [28, 128, 228]),
        (np.array([[0.0, 0.2, 1.0]], np.float32), [0, 51, 255]),
        (np.array([[-2.0, -1.0, 3.0]], np.float32), [0, 51, 255]),
        (np.array([[5.0, 5.0, 5.0]], np.float32), [0, 0, 0]),
    ],
)
def test_wide_values_follow_the_stated_rule(
    values: np.ndarray[tuple[int, int], np.dtype[np.float32]], expected: list[int]
) -> None:
    decoded = decode_source(encoded(Image.fromarray(values), "TIFF"))
    assert decoded.pixels[0, :, 1].tolist() == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_images_are_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ImageError):
        decode_source(data[: int(share * len(data))])


@pytest.mark.parametrize("data", [b"", b"x", b"<html>not a picture</html>", bytes(1000)])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"empty file|not an image"):
        decode_source(data)
    with pytest.raises(ImageError, match=r"empty file|cannot be decoded"):
        decode_stored(data)


def test_postscript_is_not_run() -> None:
    data = encoded(picture(), "EPS")
    assert Image.open(BytesIO(data)).format == "EPS"
    with pytest.raises(ImageError, match="not an image in a format"):
        decode_source(data)


def test_the_pixel_limit_holds_before_decoding() -> None:
    data = encoded(Image.new("1", (400, 300)), "PNG")
    assert decode_source(data, max_pixels=120_000).pixels.shape == (300, 400, 3)
    with pytest.raises(ImageError, match="401 x 300 is more than 120000 pixels"):
        decode_source(encoded(Image.new("1", (401, 300)), "PNG"), max_pixels=120_000)
    with pytest.raises(ImageError, match="far more than 120000 pixels"):
        decode_source(encoded(Image.new("1", (2000, 2000)), "PNG"), max_pixels=120_000)


def test_shrinking_averages_by_area() -> None:
    decoded = decode_source(encoded(picture(), "PNG"))
    assert shrink_source(decoded, 32) is decoded
    small = shrink_source(decoded, 16)
    assert (small.ext, small.pixels.shape) == ("jpg", (16, 24, 3))
    assert np.array_equal(decode_stored(small.stored_bytes), small.pixels)
    means = decoded.pixels.reshape(16, 2, 24, 2, 3).mean(axis=(1, 3))
    assert np.abs(small.pixels - means).mean() < 8  # JPEG's loss on a smooth picture


def test_what_is_too_long_for_a_jpeg_is_shrunk_to_a_png() -> None:
    wide = encoded(Image.linear_gradient("L").resize((70_000, 3)), "PNG")
    small = shrink_source(decode_source(wide), 2)
    assert small.ext == "jpg"  # 46,667 pixels
    wide = encoded(Image.linear_gradient("L").resize((140_000, 4)), "PNG")
    small = shrink_source(decode_source(wide), 2)
    assert (small.ext, small.pixels.shape) == ("png", (2, 70_000, 3))
    assert np.array_equal(decode_stored(small.stored_bytes), small.pixels)


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-'
    'ns#"><rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    'tiff:Orientation="{}"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_pale_page_is_turned_like_a_photograph(kind: str, orientation: int) -> None:
    """Few pixels of a page differ from the page upside down; only Pillow reads XMP."""
    page = Image.new("RGB", (300, 300), "white")
    for line in range(3):
        page.paste("black", (10, 10 + 8 * line, 100 + 20 * line, 12 + 8 * line))
    xmp = XMP.format(orientation)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp)
    more = {"pnginfo": info} if kind == "PNG" else {"xmp": xmp.encode(), "quality": 90}
    data = encoded(page, kind, **more)
    with Image.open(BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    assert np.abs(upright - np.asarray(page)).max() > 200
    decoded = decode_source(data)
    assert np.abs(decoded.pixels - upright).max() < 60
    assert np.array_equal(decode_stored(decoded.stored_bytes), decoded.pixels)
    assert (decoded.ext, decoded.orientation) == ("png", 1)  # stored upright


def test_the_orientation_of_stored_bytes_is_said() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(), "JPEG", exif=exif)
    decoded = decode_source(data)
    assert (decoded.stored_bytes == data, decoded.orientation) == (True, 6)
    assert decode_source(encoded(picture(), "JPEG")).orientation == 1


def test_heic_is_read_where_its_plugin_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    buffer = BytesIO()
    pillow_heif.from_pillow(picture(64, 48)).save(buffer, quality=95)
    decoded = decode_source(buffer.getvalue())
    assert (decoded.ext, decoded.pixels.shape) == ("png", (48, 64, 3))
    assert np.abs(decoded.pixels - np.asarray(picture(64, 48)).astype(int)).mean() < 8


def test_a_missing_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.images.opening._register", lambda module: False)
    heads = {b"\0\0\0\x18ftypheix": "install the extra heif", b"\xff\x0a": "pillow-jxl-plugin"}
    for head, words in heads.items():
        with pytest.raises(ImageError, match=words):
            decode_source(head + bytes(100))
    avif = encoded(picture(), "AVIF")  # Pillow's own
    assert decode_source(avif).ext == "png"
