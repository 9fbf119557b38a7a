"""Masks made elsewhere: found, read, turned, refused."""

import io
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from pipeline.core.errors import ImageError, InputError
from pipeline.images.codecs import decode_saliency
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.saliency.external import External, decode_mask
from pipeline.shardset.manifest import DatasetInfo, read_rejected
from pipeline.shardset.reader import ShardSetReader
from tests.s3_server import Bucket


def png(levels: NDArray[Any]) -> bytes:
    return cv2.imencode(".png", levels)[1].tobytes()


def npy(values: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def saved(image: PIL.Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "png", **options)
    return file.getvalue()


def ramp(height: int = 30, width: int = 40) -> NDArray[np.uint8]:
    """Bright at the right, and brightest at the bottom right."""
    x = np.linspace(0, 200, width)
    return np.asarray(np.tile(x, (height, 1)) + np.linspace(0, 55, height)[:, None], np.uint8)


HALF = cv2.resize(ramp(), (20, 15), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (png(ramp()), ramp() / 255),
        (png(HALF), HALF / 255),
        (png(ramp().astype(np.uint16) * 257), ramp() / 255),
        (png(np.repeat(ramp()[..., None], 3, axis=2)), ramp() / 255),
        (saved(PIL.Image.fromarray(ramp()).convert("LA")), ramp() / 255),
        (saved(PIL.Image.fromarray(ramp() > 128)), ramp() > 128),
        (png(np.zeros_like(ramp())), np.zeros((30, 40))),
        (npy(ramp() / 255), ramp() / 255),
        (npy((ramp() / 255).astype(np.float16)[None]), (ramp() / 255).astype(np.float16)),
        (npy(ramp() > 128), ramp() > 128),
        (npy(ramp()), ramp() / 255),
    ],
)
def test_masks_of_any_size_and_kind_are_read(data: bytes, wanted: NDArray[np.floating]) -> None:
    mask = decode_mask(data, width=400, height=300)
    assert mask.dtype == np.float32
    assert np.allclose(mask, wanted, atol=1e-6)


def test_exif_turns_a_mask_that_carries_it() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 8
    lying = PIL.Image.fromarray(ramp()).transpose(PIL.Image.Transpose.ROTATE_270)
    assert np.allclose(decode_mask(saved(lying, exif=exif), 400, 300), ramp() / 255)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (b"no mask", "no format that can be read"),
        (saved(PIL.Image.fromarray(ramp()).convert("P")), "of mode P"),
        (png(ramp()[:, :30]), "30 x 30, of another aspect than the image, 400 x 300"),
        (png(np.ones((30, 40), np.uint8)), "0 and 1 only: 255 is foreground"),
        (png(np.full((30, 40, 3), (0, 0, 90), np.uint8)), "coloured"),
        (npy(np.full((30, 40), 1.5)), r"outside of \[0, 1\]"),
        (npy(np.full((30, 40), np.nan)), r"outside of \[0, 1\]"),
        (npy(np.zeros((30, 40), np.int64)), "holds int64"),
        (npy(np.zeros((2, 30, 40))), r"has shape \(2, 30, 40\)"),
        (npy(np.asarray([[object()]])), "cannot be read"),
        (npy(np.zeros((30, 40)))[:200], "cannot be read"),
    ],
)
def test_masks_that_cannot_be_used_say_why(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decode_mask(data, width=400, height=300)


def test_rounding_is_no_other_aspect() -> None:
    for width, height in ((500, 375), (501, 333), (37, 1000)):
        for side in (7, 14, 56, 224):
            scale = side / min(width, height)
            mask = np.zeros((round(height * scale), round(width * scale)), np.uint8)
            assert decode_mask(png(mask), width, height).shape == mask.shape


def test_without_masks_the_source_says_so() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(InputError, match=r"a/b\.jpg has no mask"):
        External().map_of("a/b.jpg", image, None)
    assert External(missing="uniform").map_of("a/b.jpg", image, None) == [[0.5]]
    assert External()([image]) == [[[0.5]]]


@pytest.fixture
def config(tmp_path: Path) -> PrecomputeConfig:
    """Six images, 40 x 30, with side files; the first one is stored lying on its side."""
    for number in range(6):
        folder = tmp_path / "data" / f"c{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / "masks" / folder.name).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        picture = PIL.Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
        exif = PIL.Image.Exif()
        if number == 0:
            exif[0x0112] = 6
            picture = picture.transpose(PIL.Image.Transpose.ROTATE_90)
        picture.save(folder / f"{number}.png", exif=exif)
        mask = npy(ramp() / 255) if number == 1 else png(ramp(60, 80))
        suffix = "npy" if number == 1 else "png"
        (tmp_path / "masks" / folder.name / f"{number}.{suffix}").write_bytes(mask)
    return PrecomputeConfig(
        data=tmp_path / "data",
        out=tmp_path / "out",
        saliency="external",
        masks=tmp_path / "masks",
        shard_images=4,
    )


def stored(config: PrecomputeConfig, info: DatasetInfo) -> dict[str, NDArray[np.uint8]]:
    reader = ShardSetReader(Path(config.out), info)
    samples = [reader.read(number) for number in range(reader.num_samples)]
    return {s.key.split("-")[0]: decode_saliency(s.saliency) for s in samples}


def expected_map() -> NDArray[np.float64]:
    levels = cv2.resize(ramp() / 255, (56, 56), interpolation=cv2.INTER_AREA) * 255
    return np.asarray(levels, np.float64)


def test_side_files_are_the_saliency_of_upright_images(config: PrecomputeConfig) -> None:
    info = run_precompute(config)
    assert (info.num_images, info.num_rejected) == (6, 0)
    assert info.saliency == {"source": "external", "missing": "error"}
    for levels in stored(config, info).values():
        # masks of two sizes, averaged: a step of the finer ramp is 5 levels
        assert np.abs(levels - expected_map()).max() <= 6


def test_masks_that_miss_images_are_counted_and_named(config: PrecomputeConfig) -> None:
    for name in ("c0/2.png", "c1/3.png"):
        (Path(config.masks) / name).unlink()
    words = r"2 of 6 images have no mask in .*masks: c0/2\.png, c1/3\.png; add them, or"
    with pytest.raises(InputError, match=words):
        run_precompute(config)
    assert not Path(config.out).exists()
    maps = stored(config, run_precompute(replace(config, missing_masks="uniform")))
    assert (maps["2"] == 128).all()
    assert (maps["3"] == 128).all()
    assert maps["4"].std() > 40


def test_masks_of_another_aspect_cost_their_image(config: PrecomputeConfig) -> None:
    (Path(config.masks) / "c0" / "2.png").write_bytes(png(ramp(40, 30)))
    with pytest.raises(InputError, match=r"c0/2\.png: its mask is 30 x 40, of another aspect"):
        run_precompute(config)
    lenient = replace(config, max_rejected_fraction=0.2)
    info = run_precompute(lenient)
    rejected = [row for s in info.shards for row in read_rejected(config.out, s.name).to_pylist()]
    assert [row["source"] for row in rejected] == ["c0/2.png"]
    (Path(config.masks) / "c0" / "2.png").write_bytes(png(ramp(30, 40)))
    assert run_precompute(config).num_rejected == 0  # mended


def test_a_mask_may_have_its_accents_apart(config: PrecomputeConfig, tmp_path: Path) -> None:
    """As macOS writes names."""
    names = unicodedata.normalize("NFC", "tür.png"), unicodedata.normalize("NFD", "tür.png")
    for folder, name in zip(("data", "masks"), names, strict=True):
        path = tmp_path / folder / "c0" / "2.png"
        path.rename(path.with_name(name))
    assert run_precompute(config).num_rejected == 0


def test_folders_of_masks_that_cannot_be_used_are_refused(
    config: PrecomputeConfig, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"no mask below .*none"):
        run_precompute(replace(config, masks=tmp_path / "none"))
    with pytest.raises(InputError, match="the masks lie inside of the data"):
        run_precompute(replace(config, masks=tmp_path / "data" / "c0"))
    (tmp_path / "masks" / "c0" / "2.npy").write_bytes(npy(ramp() / 255))
    with pytest.raises(InputError, match=r"two masks of one name, c0/2\.(npy|png) and c0/2"):
        run_precompute(config)
    assert not Path(config.out).exists()


def test_masks_may_lie_in_a_bucket_or_in_a_column(config: PrecomputeConfig, bucket: Bucket) -> None:
    info = run_precompute(config)
    maps = stored(config, info)
    out = Path(config.out)
    bucket.upload(Path(config.masks), "masks")
    remote = replace(config, masks=bucket.url("masks"), out=out.with_name("remote"))
    assert [s.sha256 for s in run_precompute(remote).shards] == [s.sha256 for s in info.shards]

    names = [f"c{n % 2}/{n}.png" for n in range(6)]
    mask_names = [name.replace("1.png", "1.npy") for name in names]
    lines = ["uri,mask", *(f"{n},../masks/{m}" for n, m in zip(names, mask_names, strict=True))]
    folder = Path(config.data)
    (folder / "list.csv").write_text("\n".join(lines))
    columns = {
        "image": [(folder / name).read_bytes() for name in names],
        "mask": [(folder.with_name("masks") / name).read_bytes() for name in mask_names],
    }
    pq.write_table(pa.table(columns), folder / "x.parquet")
    listed = replace(config, masks="", mask_column="mask")
    for name in ("list.csv", "x.parquet"):
        table = replace(listed, data=folder / name, out=out.with_name(name))
        found = {
            str(int(key)): levels for key, levels in stored(table, run_precompute(table)).items()
        }
        assert found.keys() == maps.keys()
        assert all(np.array_equal(levels, maps[key]) for key, levels in found.items())
    without = pa.table(columns).set_column(1, "mask", pa.nulls(6, pa.binary()))
    pq.write_table(without, folder / "x.parquet")
    with pytest.raises(InputError, match="6 of 6 images have no mask in the column mask"):
        run_precompute(replace(table, out=out.with_name("none")))
