"""The plan depends on the listing's content alone, and says what differs."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.plan import Plan, check_plan, discard_begun, make_plan, write_plan
from pipeline.sources import Listing, SourceImage

PARAMETERS: dict[str, object] = {"saliency": {"source": "boundary", "side": 64}, "shard_images": 4}


def listing(num_images: int = 10, num_bytes: int = 100) -> Listing:
    images = tuple(
        SourceImage(f"c{n % 2}/{n}.jpg", f"c{n % 2}/{n}.jpg".encode(), num_bytes, n % 2)
        for n in range(num_images)
    )
    return Listing(images, ("c0", "c1"), 0, "")


def plan_of(images: Listing, parameters: dict[str, object] = PARAMETERS) -> Plan:
    return make_plan(images, parameters, shard_images=4, shard_bytes=10_000)


def test_the_order_of_the_listing_changes_nothing() -> None:
    images = list(listing(50).images)
    random.Random(0).shuffle(images)
    first, second = plan_of(listing(50)), plan_of(replace(listing(50), images=tuple(images)))
    assert first == second
    assert first.num_images == 50
    assert [shard.name for shard in first.shards][:2] == ["shard-000000", "shard-000001"]


def test_a_shard_closes_by_images_or_by_bytes() -> None:
    by_images = make_plan(listing(10), PARAMETERS, 4, 10_000)
    assert [len(shard.images) for shard in by_images.shards] == [4, 4, 2]
    by_bytes = make_plan(listing(10), PARAMETERS, 4, 300)
    assert [len(shard.images) for shard in by_bytes.shards] == [3, 3, 3, 1]
    too_small = make_plan(listing(3), PARAMETERS, 4, 50)
    assert [len(shard.images) for shard in too_small.shards] == [1, 1, 1]


def test_every_shard_is_a_sample_of_the_classes() -> None:
    images = tuple(
        SourceImage(f"{c}/{n}.jpg", b"", 1, c) for c in range(2) for n in range(500)
    )  # sorted by class, as folders are
    plan = make_plan(Listing(images, ("0", "1"), 0, ""), PARAMETERS, 100, 10_000)
    for shard in plan.shards:
        # 100 draws, half of each class: 30 to 70 is 4 standard deviations
        assert 30 <= sum(image.label or 0 for image in shard.images) <= 70


def test_everything_that_decides_content_is_in_the_digest() -> None:
    base = listing()
    first = base.images[0]
    others = [
        plan_of(base, {**PARAMETERS, "shard_images": 5}),
        plan_of(base, {**PARAMETERS, "saliency": {"source": "boundary", "side": 65}}),
        plan_of(replace(base, class_names=("c0", "c2"))),
        plan_of(replace(base, images=base.images[1:])),
        *(
            plan_of(replace(base, images=(changed, *base.images[1:])))
            for changed in (
                replace(first, source="c0/other.jpg"),
                replace(first, num_bytes=101),
                replace(first, label=1),
            )
        ),
    ]
    digests = {plan.digest for plan in [plan_of(base), *others]}
    assert len(digests) == 8


def test_another_plan_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    base = listing()
    plan = plan_of(base)
    assert check_plan(tmp_path, plan) is False
    write_plan(tmp_path, plan)
    assert check_plan(tmp_path, plan) is True
    cases = {
        r"shard_images: 4 -> 8": plan_of(base, {**PARAMETERS, "shard_images": 8}),
        r"saliency\.side: 64 -> 32": plan_of(
            base, {**PARAMETERS, "saliency": {"source": "boundary", "side": 32}}
        ),
        r"saliency\.source: boundary -> centre": plan_of(
            base, {**PARAMETERS, "saliency": {"source": "centre", "sigma": 0.5}}
        ),
        r"c0/0\.jpg is gone": plan_of(replace(base, images=base.images[1:])),
        r"c0/10\.jpg is new": plan_of(listing(11)),
        r"c0/0\.jpg: 100 -> 7 bytes": plan_of(
            replace(base, images=(replace(base.images[0], num_bytes=7), *base.images[1:]))
        ),
        r"other class labels": plan_of(replace(base, class_names=("a", "b"))),
    }
    for words, other in cases.items():
        with pytest.raises(InputError, match=rf"another plan \({words}\)"):
            check_plan(tmp_path, other)


def test_a_folder_with_foreign_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with pytest.raises(InputError, match=r"no plan\.json"):
        check_plan(tmp_path, plan_of(listing()))
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json is damaged"):
        check_plan(tmp_path, plan_of(listing()))


def test_sources_with_one_key_are_refused() -> None:
    # a byte that is not UTF-8, and a name that spells its escape
    images = tuple(SourceImage("a\\xff.jpg", p, 1, None) for p in (b"a\xff.jpg", b"a\\xff.jpg"))
    with pytest.raises(InputError, match="same key"):
        plan_of(Listing(images, (), 0, ""))


def test_what_came_to_nothing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_plan(out, plan_of(listing()))
    discard_begun(out)
    assert not out.exists()
    write_plan(out, plan_of(listing()))
    (out / "mine.txt").write_text("keep")
    discard_begun(out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
