"""Two parts of a collection that share no group, whatever is added to it."""

import io
import json
import random
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.shardset.shared_images import hashed_shards
from pipeline.sources.listing import Collected, collect
from pipeline.sources.registry import open_source
from pipeline.sources.rows import joined
from pipeline.sources.split import Part, Split, hash_share
from tests.picture_folders import contents, write_pictures

PARTS: tuple[Part, Part] = ("train", "val")


def taken(names: list[str], part: Part, share: float, pattern: str) -> set[str]:
    split = Split(part=part, val_share=share, group_by=pattern)
    return {name for name in names if split.takes({"source": name})}


def test_no_group_is_on_both_sides_in_a_thousand_random_cases() -> None:
    draw = random.Random(0)
    pattern = "(patient-[^/]+)/"
    val_groups = num_groups = 0.0
    for case in range(1000):
        share = draw.uniform(0.05, 0.95)
        groups = [f"patient-{draw.choice('äx')}{draw.random()}" for _ in range(draw.randint(1, 9))]
        names = [
            f"{draw.choice(('ct', 'mr'))}/{group}/{image}.png"
            for group in groups
            for image in range(draw.randint(1, 5))
        ]
        train, val = (taken(names, part, share, pattern) for part in PARTS)
        of_train, of_val = ({name.split("/")[1] for name in part} for part in (train, val))
        assert not of_train & of_val, case
        assert train | val == set(names)
        more = [*(f"later/{group}/x.png" for group in groups), "ct/patient-new/1.png"]
        draw.shuffle(more)
        assert taken(names + more, "val", share, pattern) >= val
        assert taken(names + more, "train", share, pattern) >= train
        assert taken(names, "val", min(share + 0.04, 0.99), pattern) >= val
        val_groups, num_groups = val_groups + len(of_val) / share, num_groups + len(groups)
    assert val_groups == pytest.approx(num_groups, rel=0.1)  # about the share that is wanted


def test_the_hash_is_a_contract() -> None:
    """Another one would move images of sets that exist from one part to the other."""
    assert [round(hash_share(name), 6) for name in ("a", "patient-1")] == [0.899051, 0.997733]
    assert 0 <= hash_share("\udcff") < 1


def collected(place: Path, part: Part, **options: Any) -> Collected:  # noqa: ANN401
    config = PrecomputeConfig(data=place, out="o", part=part, val_share=0.5, **options)
    return collect(replace(open_source(place, config.source_options), takes=config.takes))


def sources(images: Collected) -> set[str]:
    return set(joined(images.rows)["source"].to_pylist())


def test_columns_and_fields_of_groups(tmp_path: Path) -> None:
    """Numbers are the same group as floats, as pandas writes them where one is missing."""
    numbers = list(range(12))
    table = pa.table({"image": [b"%d" % n for n in numbers], "p": [n // 2 for n in numbers]})
    pq.write_table(table, tmp_path / "x.parquet")
    for n in numbers:
        (tmp_path / f"{n}.jpg").write_bytes(b"x")
    lines = ["path,p,label", *(f"{n}.jpg,{n // 2}.0,{n % 3}" for n in numbers)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for n in numbers:
            for suffix, data in (("jpg", b"x"), ("json", json.dumps({"p": n // 2}).encode())):
                member = tarfile.TarInfo(f"{n}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    found = {}
    for name in ("x.parquet", "x.csv", "x.tar"):
        parts = [collected(tmp_path / name, part, group_column="p") for part in PARTS]
        assert [len(sources(part)) + part.ignored["in the other part"] for part in parts] == [
            12
        ] * 2
        found[name] = [
            {int(source.rpartition("/")[2].partition(".")[0]) for source in sources(part)}
            for part in parts
        ]
    assert found["x.parquet"] == found["x.csv"] == found["x.tar"]
    train, val = found["x.csv"]
    assert train | val == set(numbers)
    assert not {n // 2 for n in train} & {n // 2 for n in val}
    (tmp_path / "x.csv").write_text("path,p\n0.jpg,1\n1.jpg,\n")
    with pytest.raises(InputError, match=r"1\.jpg is in no group by 'p'"):
        collected(tmp_path / "x.csv", "val", group_column="p")
    with pytest.raises(InputError, match=r"has no column 'q' \(--group-column\)"):
        collected(tmp_path / "x.csv", "val", group_column="q")
    with pytest.raises(InputError, match="--group-column q: image files have no columns"):
        collected(tmp_path, "val", group_column="q")


def test_two_sets_with_the_same_classes_that_share_no_group(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 20)
    config = PrecomputeConfig(
        data=tmp_path / "data",
        out="o",
        saliency="centre",
        part="val",
        val_share=0.4,
        group_by=r"picture (1?\d)",
    )
    sets = {part: run_precompute(replace(config, part=part, out=tmp_path / part)) for part in PARTS}
    train, val = ({name for name, _ in hashed_shards(tmp_path / p, sets[p])} for p in PARTS)
    assert (len(train | val), train & val) == (20, set())
    assert sets["train"].class_names == sets["val"].class_names == ("class_0", "class_1", "class_2")
    before = contents(tmp_path / "val")
    assert run_precompute(replace(config, part="val", out=tmp_path / "val")) == sets["val"]
    assert contents(tmp_path / "val") == before
    with pytest.raises(InputError, match=r"another plan \(part: val -> train\)"):
        run_precompute(replace(config, part="train", out=tmp_path / "val"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"part": "val", "val_share": 1.0}, r"val_share 1\.0 must be in \(0, 1\)"),
        ({"group_by": "(a)"}, "groups are for --part train or val"),
        ({"part": "val", "group_by": "(a"}, r"--group-by '\(a' is no regular expression"),
        ({"part": "val", "group_by": "a"}, "--group-by 'a' has 0 pairs of parentheses: wanted is"),
        ({"part": "val", "group_by": "(a)(b)"}, "has 2 pairs of parentheses"),
        ({"part": "val", "group_by": "(a)", "group_column": "b"}, "give one of them"),
    ],
)
def test_splits_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        PrecomputeConfig(data="d", out="o", **options)


def test_a_name_without_a_group_and_an_empty_part(tmp_path: Path) -> None:
    for name in ("a-1.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"b\.jpg is in no group by '\^\(\.\)-'"):
        collected(tmp_path, "val", group_by="^(.)-")
    with pytest.raises(InputError, match=r"no image is in this part: .*2 in the other part"):
        collected(tmp_path, "val" if hash_share(".jpg") >= 0.5 else "train", group_by=r"(\.jpg)")
