"""The plan depends on the listing's content alone, and says what differs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.precompute.plan import Plan, make_plan
from pipeline.precompute.plan_files import (
    check_plan,
    discard_begun,
    planned_rows,
    read_plan,
    write_plan,
)
from pipeline.sources.collected import collect
from pipeline.sources.listing import DataPlace, Listing, RowBuffer
from pipeline.storage.storage import open_store

PARAMETERS: dict[str, object] = {"saliency": {"source": "boundary", "side": 64}, "shard_images": 4}


@dataclass(frozen=True)
class Image:
    source: str
    num_bytes: int
    label: str | None


def images(num_images: int = 10, num_bytes: int = 100) -> list[Image]:
    return [Image(f"c{n % 2}/{n}.jpg", num_bytes, f"c{n % 2}") for n in range(num_images)]


def listing(some: Sequence[Image], batch_rows: int = 7) -> Listing:
    batches = []
    for start in range(0, len(some), batch_rows):
        rows = RowBuffer()
        for image in some[start : start + batch_rows]:
            rows.add(image.source, image.num_bytes, label=image.label)
        batches.append(rows.take())
    place = DataPlace(store=open_store("data"))
    return Listing(place=place, batches=iter(batches), unlabelled="is unlabelled")


def plan_of(
    some: Sequence[Image],
    parameters: dict[str, object] = PARAMETERS,
    *,
    shard_images: int = 4,
    shard_bytes: int = 10_000,
    keeps_order: bool = False,
) -> Plan:
    return make_plan(
        collect(listing(some)),
        parameters,
        shard_images=shard_images,
        shard_bytes=shard_bytes,
        keeps_order=keeps_order,
    )


def sources(plan: Plan) -> list[list[str]]:
    return [shard.column("source").to_pylist() for shard in plan.shards()]


def test_the_order_of_the_listing_changes_nothing() -> None:
    shuffled = images(50)
    random.Random(0).shuffle(shuffled)
    first, second = plan_of(images(50)), plan_of(shuffled)
    assert first.digest == second.digest
    assert sources(first) == sources(second)
    assert first.num_images == 50
    assert sorted(s for shard in sources(first) for s in shard) == sorted(
        image.source for image in images(50)
    )


def test_the_order_is_that_of_shards_made_before() -> None:
    # blake2b of 16 bytes, as the first version of this program ordered them
    expected = ["c0/2.jpg", "c0/4.jpg", "c0/6.jpg", "c1/9.jpg"]
    assert sources(plan_of(images(10)))[0] == expected


def test_containers_keep_their_order() -> None:
    plan = plan_of(images(10), keeps_order=True)
    assert [s for shard in sources(plan) for s in shard] == [image.source for image in images(10)]
    assert plan.digest != plan_of(images(10)).digest


def test_a_shard_closes_by_images_or_by_bytes() -> None:
    def sizes(num_images: int, **limits: int) -> list[int]:
        return [len(shard) for shard in sources(plan_of(images(num_images), **limits))]  # type: ignore[arg-type]

    assert sizes(10) == [4, 4, 2]
    assert sizes(10, shard_bytes=300) == [3, 3, 3, 1]
    assert sizes(3, shard_bytes=50) == [1, 1, 1]
    unknown = plan_of(images(10, num_bytes=-1), shard_bytes=1)
    assert [len(shard) for shard in sources(unknown)] == [4, 4, 2]


def test_every_shard_is_a_sample_of_the_classes() -> None:
    # sorted by class, as folders are
    some = [Image(f"{c}/{n}.jpg", 1, str(c)) for c in range(2) for n in range(500)]
    for shard in plan_of(some, shard_images=100).shards():
        # 100 draws, half of each class: 30 to 70 is 4 standard deviations
        assert 30 <= sum(shard.column("label").to_pylist()) <= 70


def test_labels_are_numbered_in_order() -> None:
    some = [Image(f"{n}.jpg", 1, label) for n, label in enumerate(["10", "9", "-1", "9"])]
    collected = collect(listing(some))
    assert (collected.class_names, collected.rows["label"].to_pylist()) == (
        ("-1", "10", "9"),
        [1, 2, 0, 2],
    )
    by_value = listing(some)
    by_value.counts_as_numbers = True
    collected = collect(by_value)
    assert (collected.class_names, collected.rows["label"].to_pylist()) == (
        ("-1", "9", "10"),
        [2, 1, 0, 1],
    )
    collected = collect(listing(some), known_classes=("9", "x"))
    assert (collected.class_names, collected.rows["label"].to_pylist()) == (
        ("9", "x", "-1", "10"),
        [3, 0, 2, 0],
    )


def test_one_image_without_a_label_means_no_labels() -> None:
    some = [*images(4), Image("z.jpg", 1, None), Image("y.jpg", 1, None)]
    collected = collect(listing(some, batch_rows=1))
    assert collected.class_names == ()
    assert collected.unlabelled_because == "y.jpg is unlabelled"
    plan = make_plan(collected, PARAMETERS, shard_images=99, shard_bytes=1 << 20)
    (shard,) = plan.shards()
    assert shard.column("label").null_count == 6


def test_everything_that_decides_content_is_in_the_digest() -> None:
    base = images()
    first = base[0]
    others = [
        plan_of(base, {**PARAMETERS, "shard_images": 5}),
        plan_of(base, {**PARAMETERS, "saliency": {"source": "boundary", "side": 65}}),
        plan_of([replace(i, label=(i.label or "").replace("c1", "c2")) for i in base]),
        plan_of(base[1:]),
        *(
            plan_of([changed, *base[1:]])
            for changed in (
                replace(first, source="c0/other.jpg"),
                replace(first, num_bytes=101),
                replace(first, label="c1"),
            )
        ),
    ]
    digests = {plan.digest for plan in [plan_of(base), *others]}
    assert len(digests) == 8


def test_another_plan_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    out = open_store(tmp_path)
    base = images()
    plan = plan_of(base)
    assert check_plan(out, plan) is False
    write_plan(out, plan)
    assert check_plan(out, plan) is True
    cases = {
        r"shard_images: 4 -> 8": plan_of(base, {**PARAMETERS, "shard_images": 8}),
        r"saliency\.side: 64 -> 32": plan_of(
            base, {**PARAMETERS, "saliency": {"source": "boundary", "side": 32}}
        ),
        r"saliency\.source: boundary -> centre": plan_of(
            base, {**PARAMETERS, "saliency": {"source": "centre", "sigma": 0.5}}
        ),
        r"c0/0\.jpg is gone": plan_of(base[1:]),
        r"c0/10\.jpg is new": plan_of(images(11)),
        r"c0/0\.jpg: 100 -> 7 bytes": plan_of([replace(base[0], num_bytes=7), *base[1:]]),
        r"other class labels": plan_of([replace(i, label="a") for i in base]),
        r"other places or labels": plan_of([replace(base[0], label="c1"), *base[1:]]),
    }
    for words, other in cases.items():
        with pytest.raises(InputError, match=rf"another plan \({words}\)"):
            check_plan(out, other)
    with pytest.raises(InputError, match=r"is new\).*--append"):
        check_plan(out, plan_of(images(11)))


def test_a_job_reads_the_rows_of_its_shard(tmp_path: Path) -> None:
    out = open_store(tmp_path)
    plan = plan_of(images())
    write_plan(out, plan)
    written = read_plan(out)
    assert written is not None
    assert (written.num_shards, written.num_images, written.digest) == (3, 10, plan.digest)
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
        check_plan(open_store(tmp_path), plan_of(images()))
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json is damaged"):
        check_plan(open_store(tmp_path), plan_of(images()))


def test_sources_with_one_key_are_refused() -> None:
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
