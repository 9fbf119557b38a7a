"""Inputs that somebody made to do harm: each is refused or rejected, and nothing else happens."""

import io
import json
import re
import struct
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.api import ShardSet, precompute
from pipeline.backbone.card import table_row
from pipeline.core.errors import DamagedSample, ImageError, InputError
from pipeline.images.source_image import read_source
from pipeline.precompute.isolation import Isolation, Limits
from pipeline.saliency.controls import Centre
from pipeline.shardset.manifest import SetError, load_dataset_info, read_manifest
from pipeline.shardset.schema import manifest_file, shard_name
from tests.made_sweeps import made_trials, write_sweep
from tests.shard_jobs import job_of_folder
from tests.shard_sets import picture, write_shard_set
from tests.source_reading import listed
from tests.training.report.pages import Page, page_of
from training.report.preview_page import write_preview

TAG = "<img src=x onerror=alert(1)>"
MIB = 1 << 20


def encoded(kind: str = "png", size: tuple[int, int] = (63, 62), number: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number)[0]).resize(size).save(file, kind)
    return file.getvalue()


def files(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()}


def test_names_that_lead_out_of_a_tar_or_a_folder(tmp_path: Path) -> None:
    """No member is extracted, what is made has names of its own, and links show pictures only."""
    names = ("../up.png", "/absolute.png", "a/../../../far.png")
    data, secret, known = tmp_path / "in", tmp_path / "secret", b"password=hunter2\n"
    data.mkdir()
    with tarfile.open(data / "x.tar", "w") as tar:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = len(encoded(number=number))
            tar.addfile(member, io.BytesIO(encoded(number=number)))
    secret.write_bytes(known * 900)
    (data / "own.png").write_bytes(encoded())
    (data / "hard.png").hardlink_to(data / "own.png")
    (data / "secret.png").symlink_to(secret)
    before = files(tmp_path)
    options: dict[str, Any] = {"local": True, "saliency": "centre", "labels": False}
    options["max_rejected_fraction"] = 0.5
    of_tar = precompute(data / "x.tar", tmp_path / "out" / "tar", **options)
    of_links = precompute(data, tmp_path / "out" / "links", **options)
    assert sorted(of_tar.names) == [f"x.tar/{name}" for name in names]
    assert (sorted(of_links.names), of_links.info.num_rejected) == (["hard.png", "own.png"], 1)
    made = {path: size for path, size in files(tmp_path).items() if path not in before}
    assert before.items() == files(tmp_path).items() - made.items()
    for path in made:
        assert tmp_path / "out" in path.parents
        assert known not in path.read_bytes()
    with tarfile.open(tmp_path / "out/tar/shards/shard-000000.tar") as tar:
        assert all(re.fullmatch(r"[\w-]+\.[\w.]+", name) for name in tar.getnames())
    shard = tmp_path / "out/links/shards/shard-000000.tar"
    secret.write_bytes(shard.read_bytes().replace(b"png\0", b"xxx\0"))
    shard.unlink()
    shard.symlink_to(secret)
    with pytest.raises(DamagedSample, match="other bytes than the manifest says"):
        ShardSet(tmp_path / "out/links")[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", "../../x"), ("name", "/etc/x"), ("name", "a\n"), ("sha256", "../../../x")),
        *(("num_images", 10**15), ("num_images", -1), ("num_bytes", 10**30), ("num_bytes", "x")),
    ],
)
def test_a_description_whose_names_are_paths(tmp_path: Path, field: str, value: object) -> None:
    """Names and digests become names of files, also in the cache; numbers sizes of arrays."""
    write_shard_set(tmp_path, num_images=2)
    plain = json.loads((tmp_path / "dataset.json").read_text())
    plain["shards"][0][field] = value
    (tmp_path / "dataset.json").write_text(json.dumps(plain))
    with pytest.raises(SetError, match=r"/dataset\.json is damaged \(.*$"):
        load_dataset_info(tmp_path)


@pytest.mark.parametrize("kind", ["png", "tiff", "heif"])
def test_few_bytes_that_say_gigabytes_of_pixels(kind: str) -> None:
    if kind == "heif":
        pytest.importorskip("pillow_heif").register_heif_opener()
    data = encoded(kind, (64, 64))
    data = data.replace(struct.pack(">II", 64, 64), struct.pack(">II", 60_000, 60_000))
    for tag, width in ((256, "H"), (257, "H"), (256, "I"), (257, "I")):  # of a TIFF
        kind_of_value = 3 + (width == "I")
        old, new = (struct.pack(f"<HHI{width}", tag, kind_of_value, 1, n) for n in (64, 60_000))
        data = data.replace(old, new)
    if kind == "png":
        data = data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]
    assert len(data) < 20_000
    with pytest.raises(ImageError, match=r"60000 x 60000 is more than 178000000|far more than"):
        read_source(data)


def repeated(value: object, count: int) -> pa.DictionaryArray:
    """One value, as often as one likes, in a few bytes of a file."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


def test_tables_that_would_be_terabytes(tmp_path: Path) -> None:
    write_shard_set(tmp_path, num_images=2)
    name, path = shard_name(0), tmp_path / manifest_file(shard_name(0))
    many = read_manifest(tmp_path, name).take([0] * 9000)
    at, sources = many.column_names.index("source"), repeated("x" * MIB, 9000)
    field = pa.field("source", sources.type, nullable=False)
    pq.write_table(many.set_column(at, field, sources), path, store_schema=False)
    with pytest.raises(SetError, match=r"000000\.parquet cannot be read \(a text has 1048576 byt"):
        read_manifest(tmp_path, name)
    pq.write_table(pa.table({"label": np.zeros(5_000_000, np.int64)}), path)
    with pytest.raises(SetError, match="5000000 rows, wanted at most 4194304"):
        read_manifest(tmp_path, name, ["label"])
    paths, labels = repeated("x" * 4 * MIB, 300_000), pa.array([1] * 300_000)
    pq.write_table(
        pa.table({"path": paths, "label": labels}), tmp_path / "x.parquet", store_schema=False
    )
    assert (tmp_path / "x.parquet").stat().st_size < 300_000
    with pytest.raises(InputError, match=r"/x\.parquet cannot be read: a text has 4194304 bytes"):
        listed(tmp_path / "x.parquet")


def test_a_table_of_images_that_would_be_gigabytes(tmp_path: Path) -> None:
    """Images are read in a process with a limit; the file is named."""
    table = pa.table({"image": repeated(bytes(24 * MIB), 64)})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd", store_schema=False)
    job = job_of_folder(tmp_path / "x.parquet", tmp_path / "out", Centre())
    isolation = Isolation(Limits(memory_bytes=128 * MIB))
    try:
        with pytest.raises(InputError, match=r"/x\.parquet cannot be read: .*alloc of size"):
            isolation.build(job)
    finally:
        isolation.close()


def test_names_on_pages(tmp_path: Path) -> None:
    """Tags in names of classes, images, trials and folders are text: else a page does not parse."""
    root, page = tmp_path / TAG, tmp_path / "page.html"
    for number in range(4):
        file = root / "in" / f"{TAG}{number % 2}" / f"{TAG}{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(number=number) if number else b"")
    options: dict[str, Any] = {"saliency": "centre", "max_rejected_fraction": 1.0}
    precompute(root / "in", root / "set", local=True, **options)
    write_preview(page, root / "set", str(root), "debug")
    trials = [
        replace(one, message=TAG, point=one.point | {"fill": f"{TAG}{one.number % 2}"})
        for one in made_trials(6)
    ]
    sweep = write_sweep(root / "sweep", trials)
    for made in (page_of(root / "set"), page_of(sweep), Page(page.read_text())):
        charts = [one for section in made.sections.values() for one in section.charts.values()]
        for trace in (trace for chart in charts for trace in chart["data"]):
            trace.pop("dimensions", None)  # of parallel coordinates, whose texts are no HTML
        drawn = json.dumps([(chart["data"], chart["layout"]) for chart in charts])
        assert "<img" not in drawn
        assert not charts or "&lt;img" in drawn
        assert all(link.startswith(("data:", "#")) for link in made.links)
    assert table_row((TAG, "a|b", "[x](y)\n", "p < 1")) == (
        r"| &lt;img src=x onerror=alert(1)> | a\|b | \[x](y) | p < 1 |"
    )
