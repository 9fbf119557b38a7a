"""Keys and columns that other programs rely on."""

import random
import re

from pipeline.shardset.schema import (
    MANIFEST_SCHEMA,
    REJECTED_SCHEMA,
    SCHEMA_VERSION,
    sample_key,
    shard_name,
)

COLUMNS = """
key: string not null, shard: string not null, index: int64 not null, image_ext: string not null,
image_offset: int64 not null, image_length: int64 not null, saliency_offset: int64 not null,
saliency_length: int64 not null, json_offset: int64 not null, json_length: int64 not null,
label: int64, width: int64 not null, height: int64 not null, source: string not null,
sha256: string not null, saliency_mean: double not null, saliency_std: double not null,
foreground_share: double not null, separability: double
"""


def test_the_columns_are_a_contract() -> None:
    assert SCHEMA_VERSION == 1
    assert str(MANIFEST_SCHEMA).split("\n") == COLUMNS.strip().replace(",\n", ", ").split(", ")
    assert str(REJECTED_SCHEMA) == "source: string not null\nreason: string not null"
    assert shard_name(7) == "shard-000007"


def test_keys_have_no_dots_or_slashes_and_do_not_collide() -> None:
    draw = random.Random(0)
    names = [
        "".join(map(chr, draw.choices(range(1, 0xD800), k=draw.randint(1, 90)))) for _ in "x" * 200
    ]
    for source in (*names, "\udcff.jpg", ".", "..", "/", "a/.b", "a b.c/d.e.jpg"):
        assert re.fullmatch(r"[A-Za-z0-9_-]{0,64}-[0-9a-f]{16}", sample_key(source))
    sources = ["a/x.jpg", "b/x.jpg", "a/x.png", "a/x.y.jpg", "a/x_y.jpg", "a/" + "x" * 300 + ".jpg"]
    assert len({sample_key(source) for source in sources}) == len(sources)
    assert sample_key("a/x.jpg") == "x-04af37c1ac9f1396"
