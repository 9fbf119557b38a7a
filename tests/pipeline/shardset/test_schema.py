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


def test_the_columns_are_a_contract() -> None:
    assert SCHEMA_VERSION == 1
    assert MANIFEST_SCHEMA.names == [
        "key",
        "shard",
        "index",
        "image_ext",
        "image_offset",
        "image_length",
        "saliency_offset",
        "saliency_length",
        "json_offset",
        "json_length",
        "label",
        "width",
        "height",
        "source",
        "sha256",
        "saliency_mean",
        "saliency_std",
        "foreground_share",
    ]
    assert REJECTED_SCHEMA.names == ["source", "reason"]
    assert shard_name(7) == "shard-000007"


@given(st.text(min_size=1))
def test_a_key_has_no_dots_or_slashes(source: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{0,64}-[0-9a-f]{16}", sample_key(source))


def test_equal_stems_do_not_collide() -> None:
    sources = ["a/x.jpg", "b/x.jpg", "a/x.png", "a/x.y.jpg", "a/x_y.jpg", "a/" + "x" * 300 + ".jpg"]
    assert len({sample_key(source) for source in sources}) == len(sources)
    assert sample_key("a/x.jpg") == "x-04af37c1ac9f1396"
