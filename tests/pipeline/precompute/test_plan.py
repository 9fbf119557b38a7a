"""The plan depends on the listing's content alone, and says what differs."""

import random
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.precompute.begin import discard_begun
from pipeline.precompute.history import check_plan
from pipeline.precompute.plan import (
    Plan,
    make_plan,
    planned_rows,
    read_plan,
    write_plan,
)
from pipeline.sources.listing import DataStore, Listing, Row, collect
from pipeline.sources.rows import joined
from pipeline.storage.storage import open_store

PARAMETERS: dict[str, object] = {"saliency": {"source": "boundary", "side": 64}, "shard_images": 4}

TOGETHER, APART = (unicodedata.normalize(form, "türen") for form in ("NFC", "NFD"))


DATA = DataStore(store=open_store("data"))


def images(num_images: int = 10, num_bytes: int = 100) -> list[Row]:
    return [
        {"source": f"c{n % 2}/{n}.jpg", "num_bytes": num_bytes, "label": f"c{n % 2}"}
        for n in range(num_images)
    ]


def with_first(**changes: object) -> list[Row]:
    first, *others = images()
    return [first | changes, *others]


def listing(rows: Sequence[Row], **options: Any) -> Listing:  # noqa: ANN401
    data = DataStore(store=open_store("data"))
    rows = [dict(row) for row in rows]
    return Listing(data=data, rows=iter(rows), unlabelled="is unlabelled", **options)


def plan_of(
    rows: Sequence[Row],
    parameters: dict[str, object] = PARAMETERS,
    keeps_order: bool = False,
    **limits: Any,  # noqa: ANN401
) -> Plan:
    images = collect(listing(rows, keeps_order=keeps_order))
    return make_plan(images, parameters, **{"shard_images": 4, "shard_bytes": 10_000, **limits})


def sources(plan: Plan) -> list[list[str]]:
    return [shard.column("source").to_pylist() for shard in plan.shards()]


def test_the_order_of_the_listing_changes_nothing() -> None:
    shuffled = images(50)
    random.Random(0).shuffle(shuffled)
    first, second = plan_of(images(50)), plan_of(shuffled)
    assert first.info == second.info
    assert sources(first) == sources(second)
    listed = [image["source"] for image in images(50)]
    assert sorted(source for shard in sources(first) for source in shard) == sorted(listed)
    # blake2b of 16 bytes, as the first version of this program ordered them
    expected = ["c0/2.jpg", "c0/4.jpg", "c0/6.jpg", "c1/9.jpg"]
    assert sources(plan_of(images(10)))[0] == expected
    kept = plan_of(images(50), keeps_order=True)  # containers
    assert [source for shard in sources(kept) for source in shard] == listed
    assert kept.info.digest != first.info.digest


@pytest.mark.parametrize("keeps_order", [False, True])
def test_parts_on_disk_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps_order: bool
) -> None:
    rows = images(500)
    for number, row in enumerate(rows):  # columns that some parts lack
        row |= {"uri": b"elsewhere"} if number == 200 else {"version": number or None}
    in_memory, in_parts = open_store(tmp_path / "memory"), open_store(tmp_path / "parts")
    write_plan(in_memory, plan_of(rows, keeps_order=keeps_order))
    for name, value in (("MEMORY_ROWS", 40), ("PART_ROWS", 30), ("RUN_TABLES", 2)):
        monkeypatch.setattr(f"pipeline.sources.rows.{name}", value)
    monkeypatch.setattr("pipeline.sources.listing.BATCH_ROWS", 10)
    plan = plan_of(rows, keeps_order=keeps_order)
    assert len(list(plan.rows)) > 10
    write_plan(in_parts, plan)
    for name in ("plan.json", "plan.arrow"):
        assert in_memory.read(name) == in_parts.read(name)
    assert plan.rows.take(np.array([499, 3, 250]))["source"].to_pylist() == [
        source for n in (499, 3, 250) for source in [joined(plan.rows)["source"][n].as_py()]
    ]


@pytest.mark.parametrize(
    ("odd", "digest"),
    [
        ("", "1a4df123"),
        ('"', "04f1c117"),
        ('","', "4f8ec498"),
        ("\\", "f788c5af"),
        ("\n", "125e49a2"),
        ("\x7f", "e7128f61"),
        ("ä", "2127f2d6"),
        ("\U0001f600", "863c693c"),
    ],
)
def test_the_digest_is_of_canonical_json(odd: str, digest: str) -> None:
    """As the first version of this program wrote it."""
    rows = [{"source": f"{number}{odd}.jpg", "num_bytes": 1} for number in range(3)]
    assert plan_of(rows).info.digest.startswith(digest)


def test_two_images_of_one_key_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def alike(sources: pa.ChunkedArray, size: int) -> NDArray[np.uint64]:
        return np.ones((len(sources), size // 8), np.uint64)

    for room in ("sources.rows", "precompute.plan"):
        monkeypatch.setattr(f"pipeline.{room}.source_hashes", alike)
    assert plan_of(images()).info.num_images == 10  # the stems in the keys differ
    monkeypatch.setattr("pipeline.precompute.plan.sample_key", lambda _: "key")
    with pytest.raises(InputError, match=r"'c0/0\.jpg' and 'c1/1\.jpg' have the same key: rename"):
        plan_of(images())


def test_a_full_disk_for_temporary_files_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.rows.MEMORY_ROWS", 1)
    words = r"temporary file \(TMPDIR says where\) cannot be written: No space"
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
        with pytest.raises(InputError, match=words):
            plan_of(images())


@pytest.mark.parametrize(
    ("num_images", "num_bytes", "shard_bytes", "sizes"),
    [
        (10, 100, 10_000, [4, 4, 2]),
        (10, 100, 300, [3, 3, 3, 1]),
        (3, 100, 50, [1, 1, 1]),
        (10, -1, 1, [4, 4, 2]),
    ],
)
def test_a_shard_closes_by_images_or_by_bytes(
    num_images: int, num_bytes: int, shard_bytes: int, sizes: list[int]
) -> None:
    plan = plan_of(images(num_images, num_bytes), shard_bytes=shard_bytes)
    assert [len(shard) for shard in sources(plan)] == sizes
    assert (plan.info.num_images, plan.info.num_shards) == (num_images, len(sizes))


def test_every_shard_is_a_sample_of_the_classes() -> None:
    rows = sorted(images(1000), key=lambda row: str(row["source"]))  # by class, as folders are
    for shard in plan_of(rows, shard_images=100, shard_bytes=1 << 30).shards():
        # 100 draws, half of each class: 30 to 70 is 4 standard deviations
        assert 30 <= sum(shard.column("label").to_pylist()) <= 70


@pytest.mark.parametrize(
    ("known", "by_value", "names", "numbers"),
    [
        ((), False, ("-1", "10", "9"), [1, 2, 0, 2]),
        ((), True, ("-1", "9", "10"), [2, 1, 0, 1]),
        (("9", "x"), True, ("9", "x", "-1", "10"), [3, 0, 2, 0]),
    ],
)
def test_labels_are_numbered_in_order(
    known: tuple[str, ...], by_value: bool, names: tuple[str, ...], numbers: list[int]
) -> None:
    labels = ["10", "9", "-1", "9"]
    rows = [{"source": f"{n}.jpg", "num_bytes": 1, "label": v} for n, v in enumerate(labels)]
    collected = collect(listing(rows, counts_as_numbers=by_value, keeps_order=True), known)
    assert (collected.class_names, joined(collected.rows)["label"].to_pylist()) == (names, numbers)


@pytest.mark.parametrize(
    ("known", "labels", "names", "numbers"),
    [
        ((), [APART, "a", APART], ("a", APART), [1, 0, 1]),
        ((), [APART, "a", TOGETHER], ("a", TOGETHER), [1, 0, 1]),
        ((), [TOGETHER, APART, "a"], ("a", TOGETHER), [1, 1, 0]),
        ((APART,), [TOGETHER, "a", APART], (APART, "a"), [0, 1, 0]),
        ((APART, TOGETHER), [TOGETHER, "a", APART], (APART, TOGETHER, "a"), [1, 2, 0]),
    ],
)
def test_classes_as_macos_writes_them(
    known: tuple[str, ...], labels: list[str], names: tuple[str, ...], numbers: list[int]
) -> None:
    """One class, also where some folders have been on a Mac; old sets keep what they have."""
    rows = [{"source": f"{n}.jpg", "num_bytes": 1, "label": v} for n, v in enumerate(labels)]
    collected = collect(listing(rows, keeps_order=True), known)
    assert (collected.class_names, joined(collected.rows)["label"].to_pylist()) == (names, numbers)


def test_one_image_without_a_label_means_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.listing.BATCH_ROWS", 1)
    rows = [*images(4), *({"source": f"{name}.jpg", "num_bytes": 1} for name in "zy")]
    collected = collect(listing(rows))
    assert collected.class_names == ()
    assert collected.unlabelled_because == "y.jpg is unlabelled"
    (shard,) = make_plan(collected, PARAMETERS, shard_images=99, shard_bytes=1 << 20).shards()
    assert shard.column("label").null_count == 6


CHANGES: dict[str, tuple[list[Row], dict[str, object]]] = {
    r"shard_images: 4 -> 8": (images(), PARAMETERS | {"shard_images": 8}),
    r"saliency\.side: 64 -> 32": (
        images(),
        PARAMETERS | {"saliency": {"source": "boundary", "side": 32}},
    ),
    r"saliency\.source: boundary -> centre": (
        images(),
        PARAMETERS | {"saliency": {"source": "centre", "sigma": 0.5}},
    ),
    r"c0/0\.jpg is gone": (images()[1:], PARAMETERS),
    r"c0/10\.jpg is new": (images(11), PARAMETERS),
    r"c0/0\.jpg is gone.*": (with_first(source="c0/other.jpg"), PARAMETERS),
    r"c0/0\.jpg: 100 -> 7 bytes": (with_first(num_bytes=7), PARAMETERS),
    r"other class labels": ([image | {"label": "a"} for image in images()], PARAMETERS),
    r"other places or labels": (with_first(label="c1"), PARAMETERS),
    r"other places or labels.*": (with_first(uri=b"elsewhere"), PARAMETERS),
}


def test_another_plan_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    out = open_store(tmp_path)
    plan = plan_of(images())
    assert check_plan(out, DATA, plan) is None
    write_plan(out, plan)
    assert check_plan(out, DATA, plan) == plan.info
    digests = {plan.info.digest}
    for words, (rows, parameters) in CHANGES.items():
        other = plan_of(rows, parameters)
        digests.add(other.info.digest)
        with pytest.raises(InputError, match=rf"another plan \({words}\)"):
            check_plan(out, DATA, other)
    assert len(digests) == 1 + len(CHANGES)
    with pytest.raises(InputError, match=r"is new\).*--append"):
        check_plan(out, DATA, plan_of(images(11)))
    (tmp_path / "plan.arrow").unlink()
    with pytest.raises(InputError, match=r"another plan \(other images\)"):
        check_plan(out, DATA, plan_of(images(11)))


def test_a_job_reads_the_rows_of_its_shard(tmp_path: Path) -> None:
    out = open_store(tmp_path)
    plan = plan_of(images())
    write_plan(out, plan)
    assert read_plan(out) == plan.info
    for number, shard in enumerate(plan.shards()):
        assert planned_rows(out, number).equals(shard)
    with pytest.raises(InputError, match=r"plan\.arrow is damaged"):
        planned_rows(out, 3)
    (tmp_path / "plan.arrow").write_bytes((tmp_path / "plan.arrow").read_bytes()[:100])
    with pytest.raises(InputError, match=r"plan\.arrow is damaged"):
        planned_rows(out, 0)
    (tmp_path / "plan.arrow").unlink()
    with pytest.raises(InputError, match=r"plan\.arrow is missing"):
        planned_rows(out, 0)


def test_a_folder_with_foreign_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "x.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"no plan\.json"):
        check_plan(open_store(tmp_path), DATA, plan_of(images()))
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json is damaged"):
        check_plan(open_store(tmp_path), DATA, plan_of(images()))
    with pytest.raises(InputError, match=r"'c0/4\.jpg' is listed twice"):
        plan_of([*images(6), images(6)[4]])


def test_what_came_to_nothing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for folder in ("shards", "manifest"):
        (out / folder).mkdir(parents=True)
        (out / folder / "shard-000000.x").write_text("")
    write_plan(open_store(out), plan_of(images()))
    discard_begun(open_store(out))
    assert not out.exists()
    write_plan(open_store(out), plan_of(images()))
    (out / "mine.txt").write_text("keep")
    discard_begun(open_store(out))
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
