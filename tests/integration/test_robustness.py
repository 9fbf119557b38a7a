"""Images that break loaders: each is in a shard, as Pillow shows it, or rejected with a reason."""

import csv
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.core.errors import ImageError
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.images.source_image import decode_source
from pipeline.precompute.build import ensure_shard
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.ray_job import build_on_ray
from pipeline.precompute.run import run_precompute
from pipeline.precompute.verify import verify_set
from pipeline.saliency.boundary import Boundary
from pipeline.shardset.manifest import DatasetInfo
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import MANIFEST_FOLDER, REJECTED_FOLDER, SCHEMA_VERSION
from tests.shard_jobs import job_of_folder

MIN_SHARE = 0.98
"""Of the files that Pillow decodes, how many must be in the shards."""


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "robustness"


@pytest.fixture(scope="module")
def listed(folder: Path) -> dict[str, bool]:
    """All the files, and whether Pillow decodes them."""
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        return {row["file"]: row["pillow_result"] == "ok" for row in csv.DictReader(file)}


def table(root: Path, part: str) -> list[dict[str, str]]:
    paths = sorted((root / part).glob("*.parquet"))
    return list(pa.concat_tables([pq.read_table(path) for path in paths]).to_pylist())


@pytest.mark.usefixtures("ray_session")
def test_every_file_is_in_a_shard_or_rejected(
    folder: Path, listed: dict[str, bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    config = PrecomputeConfig(
        data=folder,
        out=out,
        saliency="spectral_residual",
        shard_images=100,
        max_rejected_fraction=1.0,
    )
    info = run_precompute(config, build_on_ray)
    stored = {row["source"] for row in table(out, MANIFEST_FOLDER)}
    rejected = {row["source"]: row["reason"] for row in table(out, REJECTED_FOLDER)}
    hidden = {name for name in listed if "/." in name}
    assert stored | rejected.keys() | hidden == listed.keys()
    assert "3 other files ignored (1 .csv, 1 hidden, 1 without a suffix)" in capsys.readouterr().out
    assert not stored & rejected.keys()
    assert (info.num_images, info.num_rejected) == (len(stored), len(rejected))
    assert all(reason and "\n" not in reason for reason in rejected.values())
    good = [name for name, decodes in listed.items() if decodes]
    assert sum(name in stored | hidden for name in good) >= MIN_SHARE * len(good)
    assert "more than 178000000 pixels" in rejected["synthesised/bomb_30000x30000_1bit.png"]
    assert verify_set(out) == []


def by_pillow(data: bytes) -> NDArray[np.float64]:
    """The picture as Pillow shows it over white.

    Of 16 bits the highest 8 of those in use; what such a picture calls transparency is left out.
    """
    with Image.open(BytesIO(data)) as opened:
        image: Image.Image = opened
        image.load()
        if image.mode.startswith("I;16"):
            values = np.asarray(image).astype(np.int64)
            levels = (values << 8) >> int(values.max()).bit_length()
            return np.repeat(levels[..., None], 3, axis=2).astype(np.float64)
        is_deep = image.format == "PNG" and data[24:26] in (b"\x10\x04", b"\x10\x06")
        if is_deep and not getattr(image, "is_animated", False):
            return np.asarray(image.convert("RGBA"), np.float64)[..., :3]
        image = ImageOps.exif_transpose(image)
        if "A" in image.getbands() or "transparency" in image.info:
            pixels = np.asarray(image.convert("RGBA"), np.float64)
            alpha = pixels[..., 3:] / 255
            return pixels[..., :3] * alpha + 255 * (1 - alpha)
        return np.asarray(image.convert("RGB"), np.float64)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # Pillow's own
def test_colours_are_those_of_pillow(folder: Path, listed: dict[str, bool]) -> None:
    modes: dict[str, int] = {}
    for name in sorted(name for name, decodes in listed.items() if decodes):
        data = (folder / name).read_bytes()
        try:
            with Image.open(BytesIO(data)) as image:
                mode = image.mode
            decoded = decode_source(data, max_pixels=4_000_000)
            expected = by_pillow(data)
        except (ImageError, OSError, SyntaxError):
            continue  # over the limit, or damaged: mended, not decoded as Pillow does
        if mode in ("I", "F"):
            continue  # no range of their own: see the rule in pipeline.images.source_image
        stored = decode_stored(decoded.stored_bytes)
        assert stored.shape == expected.shape, name
        # two JPEG decoders differ in how they scale colours up; a wrong colour is far off
        limit = 4.0 if decoded.ext == "jpg" else 0.6
        assert np.abs(stored - expected).mean() <= limit, name
        modes[mode] = modes.get(mode, 0) + 1
    assert {"RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16"} <= modes.keys()
    assert sum(modes.values()) >= 500


def off_centre(width: int = 120, height: int = 80) -> Image.Image:
    """A red disc on grey noise, in the upper left third."""
    pixels = np.random.default_rng(0).integers(100, 120, (height, width, 3), dtype=np.uint8)
    cv2.circle(pixels, (30, 22), 12, (220, 30, 30), -1)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_saliency_turns_with_the_picture(tmp_path: Path, kind: str) -> None:
    """What is stored of all orientations is the upright picture, and its map peaks at the disc."""
    (tmp_path / "data").mkdir()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        off_centre().save(tmp_path / "data" / f"{orientation}.{kind}", exif=exif, quality=95)
    job = job_of_folder(tmp_path / "data", tmp_path / "out", Boundary(), saliency_size=56)
    built = ensure_shard(job)
    info = DatasetInfo(
        schema_version=SCHEMA_VERSION,
        shards=(built.info,),
        class_names=(),
        saliency={},
        saliency_size=56,
        plan_digest=job.plan_digest,
        num_rejected=0,
        versions={},
    )
    reader = ShardSetReader(tmp_path / "out", info)
    places = set()
    for number in range(8):
        sample = reader.read(number)
        pixels = decode_stored(sample.image).astype(np.int16)
        height, width = pixels.shape[:2]
        disc = np.argwhere(pixels[..., 0] - pixels[..., 1] > 80)
        row, column = disc.mean(axis=0) / (height, width)
        levels = decode_saliency(sample.saliency)
        peak = (np.argwhere(levels == levels.max()).mean(axis=0) + 0.5) / 56
        assert np.abs(peak - (row, column)).max() < 0.1, sample.key
        places.add((width > height, bool(row < 0.5), bool(column < 0.5)))
    assert len(places) == 8, "every orientation shows the disc elsewhere"
