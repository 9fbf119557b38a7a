"""Keys and columns that other programs rely on."""

import re

from hypothesis import given
from hypothesis import strategies as st

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
foreground_share: double not null
"""


def test_the_columns_are_a_contract() -> None:
    assert SCHEMA_VERSION == 1
    assert str(MANIFEST_SCHEMA).split("\n") == COLUMNS.strip().replace(",\n", ", ").split(", ")
    assert str(REJECTED_SCHEMA) == "source: string not null\nreason: string not null"
    assert shard_name(7) == "shard-000007"


@given(st.text(min_size=1))
def test_a_key_has_no_dots_or_slashes(source: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{0,64}-[0-9a-f]{16}", sample_key(source))


def test_equal_stems_do_not_collide() -> None:
    sources = ["a/x.jpg", "b/x.jpg", "a/x.png", "a/x.y.jpg", "a/x_y.jpg", "a/" + "x" * 300 + ".jpg"]
    assert len({sample_key(source) for source in sources}) == len(sources)
    assert sample_key("a/x.jpg") == "x-04af37c1ac9f1396"
