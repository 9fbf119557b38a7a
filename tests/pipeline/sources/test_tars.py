"""Tars as WebDataset has them, also those that this program writes."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import webdataset

from pipeline.core.errors import InputError
from tests.s3_server import Bucket
from tests.shard_sets import write_shard_set
from tests.source_reading import listed, read


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))


def test_members_with_one_name_are_one_sample(tmp_path: Path) -> None:
    long_name = "d/" + "long" * 40 + "ü"
    members = {
        "d/a.jpg": b"A",
        "d/a.cls": b"10\n",
        "d/a.mask.png": b"mask of A",
        "b.json": json.dumps({"label": 9, "caption": "x"}).encode(),
        "b.png": b"B",
        f"{long_name}.webp": b"C",
        f"{long_name}.cls": b"10",
        "d/readme.txt": b"none",
    }
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        write_tar(tmp_path / "x.tar", members, form)
        collected = listed(tmp_path / "x.tar", mask_column="mask.png")
        assert collected.class_names == ("9", "10")
        assert collected.ignored == {".txt": 1}
        images = read(tmp_path / "x.tar", mask_column="mask.png")
        assert [(i.source, i.data, i.label, i.mask) for i in images] == [
            ("x.tar/d/a.jpg", b"A", 1, b"mask of A"),
            ("x.tar/b.png", b"B", 0, None),
            (f"x.tar/{long_name}.webp", b"C", 1, None),
        ]
    collected = listed(tmp_path / "x.tar", labels=False)
    assert (collected.class_names, collected.unlabelled_because) == ((), "")


def test_which_member_is_what_can_be_said(tmp_path: Path) -> None:
    members = {
        "a.jpg": b"A",
        "a.png": b"a",
        "a.json": b'{"kind": "x", "label": 3}',
        "b.jpg": b"B",
        "b.png": b"b",
        "b.txt": b"y",
        "b.json": b'{"kind": "y"}',
    }
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(InputError, match=r"a\.jpg and a\.png in one sample.*--image-column jpg"):
        read(tmp_path / "x.tar")
    images = read(tmp_path / "x.tar", image_column="png", label_column="kind")
    assert [(i.data, i.label) for i in images] == [(b"a", 0), (b"b", 1)]
    collected = listed(tmp_path / "x.tar", image_column="jpg")
    assert collected.unlabelled_because == "x.tar/b.jpg has no label"


def test_names_with_dots(tmp_path: Path) -> None:
    """The library takes what follows the first dot for a suffix: huggingface/datasets #7144."""
    write_tar(tmp_path / "one.tar", {"s0.input.JPG": b"A", "s0.outputs.txt": b"x", "s0.cls": b"3"})
    (image,) = read(tmp_path / "one.tar")
    assert (image.source, image.data, image.label) == ("one.tar/s0.input.JPG", b"A", 0)
    members: dict[str, bytes] = {}
    for number in range(3):
        members |= {f"22.{number}.jpg": b"J%d" % number, f"22.{number}.cls": b"%d" % number}
    members |= {"23.left.jpg": b"L", "23.right.jpg": b"R", "23.cls": b"7"}
    write_tar(tmp_path / "two.tar", members)
    of_one = r"^\S*/two\.tar has 22\.0\.jpg and .* each is one with --image-column '\*jpg'$"
    with pytest.raises(InputError, match=of_one):
        read(tmp_path / "two.tar")
    collected = listed(tmp_path / "two.tar", image_column="*jpg")
    assert (collected.class_names, collected.ignored) == (("0", "1", "2", "7"), {})
    images = read(tmp_path / "two.tar", image_column="*jpg")
    assert [(i.data, i.label) for i in images] == [
        (b"J0", 0),
        (b"J1", 1),
        (b"J2", 2),
        (b"L", 3),
        (b"R", 3),
    ]
    with pytest.raises(InputError, match=r"no member .*\.png in .*suffixes are \.0\.cls, \.0\.jpg"):
        read(tmp_path / "two.tar", image_column="png")


def test_what_macos_adds_belongs_to_no_sample(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(2):
        for suffix, data in (("cls", b"%d" % number), ("jpg", b"J%d" % number)):
            members |= {f"./._{number}.{suffix}": b"apple", f"./{number}.{suffix}": data}
    write_tar(tmp_path / "x.tar", members)
    collected = listed(tmp_path / "x.tar")
    assert (collected.class_names, collected.ignored) == (("0", "1"), {"hidden": 4})
    of_library = webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False)
    expected = [(sample["jpg"], int(sample["cls"])) for sample in of_library]
    assert [(i.data, i.label) for i in read(tmp_path / "x.tar")] == expected


def test_links_are_counted_and_scattered_members_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        for name, kind in (("a.jpg", tarfile.REGTYPE), ("b.jpg", tarfile.LNKTYPE)):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, "a.jpg"
            tar.addfile(about, io.BytesIO(b""))
    assert listed(tmp_path / "links.tar").ignored == {"links and devices": 1}
    write_tar(tmp_path / "x.tar", {"a.cls": b"1", "b.cls": b"2", "a.jpg": b"A", "b.jpg": b"B"})
    with pytest.raises(InputError, match=r"^\S*/x\.tar: a\.jpg does not stand .* --sort=name\)$"):
        listed(tmp_path / "x.tar")
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO(b""))
    with pytest.raises(InputError, match=r"^\S*/twice\.tar: a\.jpg: duplicate"):
        listed(tmp_path / "twice.tar")


def test_braces_spell_out_tars(tmp_path: Path, bucket: Bucket) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number:05d}.tar", {f"{number}.jpg": b"%d" % number})
    images = read(tmp_path / "{00000..00001}.tar")
    assert [image.source for image in images] == ["00000.tar/0.jpg", "00001.tar/1.jpg"]
    with pytest.raises(InputError, match=r"no such file: .*00003\.tar"):
        read(tmp_path / "{00000..00003}.tar")
    bucket.upload(tmp_path, "p")
    place, _, options = bucket.url("p").partition("?")
    found = read(f"{place}/{{00001..00002}}.tar?{options}")
    assert [image.source for image in found] == ["00001.tar/1.jpg", "00002.tar/2.jpg"]
    with pytest.raises(InputError, match=r"no such file: s3://.*/p/00003\.tar"):
        read(f"{place}/{{00001..00003}}.tar?{options}")


def test_many_tars_keep_their_order_wherever_they_lie(tmp_path: Path, bucket: Bucket) -> None:
    for number in (1, 0, 2):
        members = {f"{n}.jpg": f"{number} {n}".encode() * 999 for n in range(5)}
        write_tar(tmp_path / "in" / f"part-{number}.tar", members)
    expected = [
        (f"part-{t}.tar/{n}.jpg", f"{t} {n}".encode() * 999) for t in range(3) for n in range(5)
    ]
    assert [(i.source, i.data) for i in read(tmp_path / "in" / "*.tar")] == expected
    bucket.upload(tmp_path, "p")
    place, _, options = bucket.url("p/in").partition("?")
    assert [(i.source, i.data) for i in read(f"{place}/*.tar?{options}")] == expected


def test_webdatasets_own_writer_and_our_own_shards_are_read(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number:04d}", "jpg": b"J%d" % number, "cls": number})
    images = read(tmp_path / "x.tar")
    assert [(i.source, i.data, i.label) for i in images] == [
        (f"x.tar/{n:04d}.jpg", b"J%d" % n, n) for n in range(3)
    ]
    write_shard_set(tmp_path, num_images=5, shard_images=3)
    images = read(tmp_path / "shards" / "*.tar", mask_column="saliency.png")
    assert [(i.data[:2], (i.mask or b"")[1:4]) for i in images] == [(b"\xff\xd8", b"PNG")] * 5
    assert {image.label for image in images} == {0, 1, 2}


def test_tars_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar" * 1000)
    with tarfile.open(tmp_path / "zip.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO(b""))
    write_tar(tmp_path / "none.tar", {"a.txt": b"x"})
    write_tar(tmp_path / "cut.tar", {"a.jpg": b"x" * 4000, "b.jpg": b"x" * 4000})
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[:5500])
    for name, words in (
        ("nope.tar", r"no such file: .*nope\.tar"),
        ("x.tar", r"x\.tar is no tar that can be read"),
        ("zip.tar", "compressed one has to be unpacked"),
        ("none.tar", r"no image in .*none\.tar"),
        ("cut.tar", r"cut\.tar"),
    ):
        with pytest.raises(InputError, match=words):
            read(tmp_path / name)
