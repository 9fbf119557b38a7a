"""Inputs that somebody made to do harm: each is refused, or rejected, and nothing else happens."""

import io
import os
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.api import ShardSet, precompute
from pipeline.core.errors import ImageError, InputError
from pipeline.images.source_image import read_source
from pipeline.precompute.isolation import Isolation, Limits
from pipeline.saliency.controls import Centre
from pipeline.saliency.external import decode_mask
from pipeline.shardset.cache import CacheConfig
from pipeline.shardset.manifest import SetError, load_dataset_info, read_manifest
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import manifest_file, shard_name
from tests.shard_jobs import job_of_folder
from tests.shard_sets import picture, write_shard_set
from tests.source_reading import listed

BOMB = "60000 x 60000 is more than 178000000 pixels"
MIB = 1 << 20


def png_of(number: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number)[0]).save(file, "png")
    return file.getvalue()


def everything(folder: Path) -> dict[Path, int]:
    """All files and links below a folder, with their sizes."""
    return {path: path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()}


def test_members_of_a_tar_that_lead_out_of_it(tmp_path: Path) -> None:
    """Names are names only: no member is extracted, and what is made has names of its own."""
    data, out = tmp_path / "in" / "x.tar", tmp_path / "in" / "out"
    data.parent.mkdir()
    with tarfile.open(data, "w") as tar:
        for number, name in enumerate(("/absolute.png", "../up.png", "a/../../../far.png")):
            info = tarfile.TarInfo(name)
            info.size = len(png_of(number))
            tar.addfile(info, io.BytesIO(png_of(number)))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            link = tarfile.TarInfo(f"link{kind.decode()}.png")
            link.type, link.linkname = kind, "../../secret.png"
            tar.addfile(link)
    (tmp_path / "secret.png").write_bytes(png_of(9))
    before = everything(tmp_path)
    assert listed(data).ignored == {"links and devices": 3}
    shards = precompute(data, out, local=True, saliency="centre")
    assert sorted(shards.names) == [
        f"x.tar/{n}" for n in ("../up.png", "/absolute.png", "a/../../../far.png")
    ]
    assert {p: n for p, n in everything(tmp_path).items() if out not in p.parents} == before
    with tarfile.open(out / "shards" / "shard-000000.tar") as made:
        assert len(made.getnames()) == 9
        assert all("/" not in name and ".." not in name for name in made.getnames())


def test_links_in_a_folder(tmp_path: Path) -> None:
    """A link is read as what it leads to, which must be a picture; the rest of it stays unread."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (data / "own.png").write_bytes(png_of())
    (data / "hard.png").hardlink_to(data / "own.png")
    (tmp_path / "secret").write_bytes(b"password=hunter2\n" * 9)
    (data / "secret.png").symlink_to(tmp_path / "secret")
    (data / "round").symlink_to(data)
    before = everything(tmp_path)
    shards = precompute(
        data, out, local=True, saliency="centre", labels=False, max_rejected_fraction=0.5
    )
    assert sorted(shards.names) == ["hard.png", "own.png"]
    assert (shards.info.num_images, shards.info.num_rejected) == (2, 1)
    assert {p: n for p, n in everything(tmp_path).items() if out not in p.parents} == before
    for path in everything(out):
        assert b"hunter2" not in path.read_bytes(), path


def test_a_set_whose_shard_is_a_link_to_another_file(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "set", num_images=2)
    secret, shard = tmp_path / "secret", tmp_path / "set" / "shards" / "shard-000000.tar"
    secret.write_bytes(b"password=hunter2" * (shard.stat().st_size // 16))
    shard.unlink()
    shard.symlink_to(secret)
    with pytest.raises(Exception, match=r"picture-000000-\w+ in .* is damaged \(other bytes") as no:
        ShardSet(tmp_path / "set")[0]
    assert "hunter2" not in str(no.value)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../elsewhere"},
        {"name": "/etc/passwd"},
        {"name": "a\n"},
        {"sha256": "../../../elsewhere"},
        {"sha256": "e" * 63},
        {"num_images": 10**15},
        {"num_images": -1},
        {"num_bytes": 10**30, "num_images": 10**20},
    ],
    ids=str,
)
def test_shards_whose_names_are_paths_or_that_promise_too_much(
    tmp_path: Path, change: dict[str, object]
) -> None:
    """Their names become those of files, also in the cache, and their numbers sizes of arrays."""
    from json import dumps, loads

    write_shard_set(tmp_path / "set", num_images=2)
    about = tmp_path / "set" / "dataset.json"
    plain = loads(about.read_text())
    about.write_text(dumps(plain | {"shards": [plain["shards"][0] | change]}))
    with pytest.raises(SetError, match=r"/set/dataset\.json is damaged \(") as refused:
        load_dataset_info(tmp_path / "set")
    assert "\n" not in str(refused.value)


def png_bomb() -> bytes:
    """A whole PNG of 60,000 x 60,000 pixels of one bit each, of zeros that are packed twice."""
    row = zlib.compress(bytes(7501 * 100), 9)
    parts = (b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)), (b"IDAT", row)
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in (*parts, (b"IEND", b"")):
        made += struct.pack(">I", len(data)) + kind + data
        made += struct.pack(">I", zlib.crc32(kind + data))
    return made


def tiff_bomb() -> bytes:
    file = io.BytesIO()
    Image.new("L", (63, 62)).save(file, "tiff", compression="tiff_lzw")
    data = bytearray(file.getvalue())
    for tag in (256, 257):  # width and height
        at = data.index(struct.pack("<HHI", tag, 4, 1))
        data[at + 8 : at + 12] = struct.pack("<I", 60_000)
    return bytes(data)


def heic_bomb() -> bytes:
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 64))).save(file)
    size = struct.pack(">II", 64, 64)
    assert b"ispe" in file.getvalue()
    return file.getvalue().replace(size, struct.pack(">II", 60_000, 60_000))


@pytest.mark.parametrize("make", [png_bomb, tiff_bomb, heic_bomb], ids=lambda one: one.__name__)
def test_a_few_bytes_that_would_be_gigabytes_of_pixels(make) -> None:  # noqa: ANN001
    data = make()
    assert len(data) < 20_000
    tracemalloc.start()
    with pytest.raises(ImageError, match=f"{BOMB}|far more than|cannot be decoded|security"):
        read_source(data)
    assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    tracemalloc.stop()


def npy_header(words: str, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(words)) + words.encode()


@pytest.mark.parametrize(
    "words",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1048576, 1048576)}\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807, 2)}\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-4, -4)}\n",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 2)}\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': __import__('os').getcwd()}\n",
        "(" * 5000,
    ],
)
def test_headers_of_arrays(words: str) -> None:
    """Sizes that no memory has, objects (whose pickles run code), and expressions."""
    data = npy_header(words) + b"cos\nsystem\n(S'touch pwned'\ntR." + bytes(64)
    with pytest.raises(ImageError, match="cannot be read"):
        read_source(data)
    with pytest.raises(ImageError, match="mask cannot be read"):
        decode_mask(data, 4, 4)
    assert not Path("pwned").exists()


def repeated(value: object, count: int) -> pa.DictionaryArray:
    """One value, as often as one likes, in a few bytes of a file."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


def test_a_list_whose_texts_would_be_terabytes(tmp_path: Path) -> None:
    columns = {"path": repeated("x" * 4 * MIB, 300_000), "label": pa.array([1] * 300_000)}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", compression="zstd")
    assert (tmp_path / "x.parquet").stat().st_size < 5000
    with pytest.raises(InputError, match=r"/x\.parquet cannot be read: a text has 4194304 bytes"):
        listed(tmp_path / "x.parquet")


def test_a_manifest_that_would_be_terabytes(tmp_path: Path) -> None:
    info = write_shard_set(tmp_path, num_images=2)
    name, path = shard_name(0), tmp_path / manifest_file(shard_name(0))
    table = read_manifest(tmp_path, name)
    longer = pa.concat_tables([table.take([0] * 1000)])
    sources = repeated("x" * MIB, 1000)
    at = longer.column_names.index("source")
    bomb = longer.set_column(at, pa.field("source", sources.type, nullable=False), sources)
    pq.write_table(bomb, path)
    with pytest.raises(SetError, match=r"000000\.parquet cannot be read \(a text has 1048576 byt"):
        read_manifest(tmp_path, name)
    zeros = pa.table({"label": pa.array(np.zeros(5_000_000, np.int64))})
    pq.write_table(zeros, path)
    with pytest.raises(SetError, match="5000000 rows, wanted at most"):
        read_manifest(tmp_path, name, ["label"])
    with pytest.raises(SetError, match="5000000 rows"):
        ShardSetReader(tmp_path, info, CacheConfig()).labels()


def test_a_table_of_images_that_would_be_gigabytes(tmp_path: Path) -> None:
    """Images are read in a process with a limit; the shard fails by the name of the file."""
    column = repeated(bytes(24 * MIB), 64)
    pq.write_table(pa.table({"image": column}), tmp_path / "x.parquet", compression="zstd")
    assert (tmp_path / "x.parquet").stat().st_size < 5000
    job = job_of_folder(tmp_path / "x.parquet", tmp_path / "out", Centre())
    isolation = Isolation(Limits(memory_bytes=128 * MIB))
    try:
        with pytest.raises(InputError, match=r"/x\.parquet cannot be read: .*malloc of size"):
            isolation.build(job)
    finally:
        isolation.close()
    assert not os.listdir(tmp_path / "out" / "shards")
