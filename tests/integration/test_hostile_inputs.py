"""Inputs that somebody made to do harm: each is refused or rejected, and nothing else happens."""

import io
import json
import re
import struct
import tarfile
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.api import ShardSet, precompute
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
from training.report.config import ReportConfig
from training.report.preview_page import write_preview
from training.report.write import write_report

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
    options = {"local": True, "saliency": "centre", "labels": False, "max_rejected_fraction": 0.5}
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
    data, header = encoded(kind, (64, 64)), b"IHDR" + struct.pack(">II", 60_000, 60_000)
    data = data.replace(struct.pack(">II", 64, 64), header[4:])
    for tag, width in ((256, "H"), (257, "H"), (256, "I"), (257, "I")):  # of a TIFF
        entry = [struct.pack(f"<HHI{width}", tag, 3 + (width == "I"), 1, n) for n in (64, 60_000)]
        data = data.replace(*entry)
    if kind == "png":
        header = data[12:29]
        data = data[:29] + struct.pack(">I", zlib.crc32(header)) + data[33:]
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
    pq.write_table(many.set_column(at, field, sources), path)
    with pytest.raises(SetError, match=r"000000\.parquet cannot be read \(a text has 1048576 byt"):
        read_manifest(tmp_path, name)
    pq.write_table(pa.table({"label": np.zeros(5_000_000, np.int64)}), path)
    with pytest.raises(SetError, match="5000000 rows, wanted at most 4194304"):
        read_manifest(tmp_path, name, ["label"])
    paths, labels = repeated("x" * 4 * MIB, 300_000), pa.array([1] * 300_000)
    pq.write_table(pa.table({"path": paths, "label": labels}), tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 300_000
    with pytest.raises(InputError, match=r"/x\.parquet cannot be read: a text has 4194304 bytes"):
        listed(tmp_path / "x.parquet")


def test_a_table_of_images_that_would_be_gigabytes(tmp_path: Path) -> None:
    """Images are read in a process with a limit; the file is named."""
    table = pa.table({"image": repeated(bytes(24 * MIB), 64)})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd")
    job = job_of_folder(tmp_path / "x.parquet", tmp_path / "out", Centre())
    isolation = Isolation(Limits(memory_bytes=128 * MIB))
    try:
        with pytest.raises(InputError, match=r"/x\.parquet cannot be read: .*malloc of size"):
            isolation.build(job)
    finally:
        isolation.close()


class Tags(HTMLParser):
    """The tags of a page, and the charts in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.charts = set[str](), list[str]()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name.startswith("on")], attrs
        given = {name: value or "" for name, value in attrs}
        assert given.get("src", "data:").startswith("data:"), given
        assert given.get("href", "#").startswith(("#", "data:,")), given
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        if data.startswith('{"data":'):
            assert "<" not in data
            self.charts.append(data)


def test_names_on_pages(tmp_path: Path) -> None:
    """Tags in the names of classes, images, settings and trials are shown as text."""
    data, page = tmp_path / TAG, tmp_path / "page.html"
    for number in range(4):
        (data / (f"{TAG}{number % 2}")).mkdir(parents=True, exist_ok=True)
        (data / f"{TAG}{number % 2}" / f"{TAG}{number}.png").write_bytes(encoded(number=number))
    (data / f"{TAG}0" / f"{TAG}.png").write_bytes(TAG.encode())
    precompute(data, tmp_path / "set", local=True, saliency="centre", max_rejected_fraction=0.5)
    write_report(ReportConfig(folder=tmp_path / "set", out=page))
    pages = [Tags(page)]
    write_preview(page, tmp_path / "set", str(data), "debug")
    pages.append(Tags(page))
    trials = [
        replace(one, message=TAG, point=one.point | {"fill": f"{TAG}{one.number % 2}"})
        for one in made_trials(6)
    ]
    folder = write_sweep(tmp_path / "sweep", trials)
    plan = (folder / "sweep.json").read_text().replace('"name": ""', f'"name": "{TAG}"')
    (folder / "sweep.json").write_text(plan)
    write_report(ReportConfig(folder=folder, out=page))
    pages.append(Tags(page))
    assert not {"iframe", "object", "embed", "form", "base"} & set().union(*(p.tags for p in pages))
    shown = [text for one in pages for chart in one.charts for text in texts(json.loads(chart))]
    assert any("&lt;img" in text for text in shown)
    assert not [text for text in shown if "<img" in text]


def texts(plain: object) -> list[str]:
    """All texts of a chart, but for those of parallel coordinates, which are no HTML to plotly."""
    if isinstance(plain, dict):
        return texts([value for name, value in plain.items() if name != "dimensions"])
    if isinstance(plain, list):
        return [text for value in plain for text in texts(value)]
    return [plain] if isinstance(plain, str) else []
