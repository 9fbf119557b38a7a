"""Images that two collections share."""

from functools import partial
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import read_manifest
from pipeline.shardset.shared_images import counted, hashed_files, hashed_shards, shared_images
from tests.shard_sets import write_shard_set


def test_shared_images_are_found_by_their_source_files(tmp_path: Path) -> None:
    ours = write_shard_set(tmp_path / "a", num_images=20)
    others = write_shard_set(tmp_path / "b", num_images=8, first_number=16)
    shared = [f"picture-{number:06d}.jpg" for number in range(16, 20)]
    hashed = hashed_shards(tmp_path / "b", others)
    assert shared_images(hashed, hashed_shards(tmp_path / "a", ours)) == shared
    assert counted(shared) == f"4 images ({', '.join(shared[:3])}, ...)"
    assert counted(["x"]) == "1 image (x)"
    (row, *_) = read_manifest(tmp_path / "a", "shard-000000").to_pylist()
    tar = (tmp_path / "a" / "shards" / "shard-000000.tar").read_bytes()
    (tmp_path / "x").write_bytes(tar[row["image_offset"] :][: row["image_length"]])
    (tmp_path / "y").write_bytes(b"another")
    shards = partial(hashed_shards, tmp_path / "a", ours)
    assert shared_images(shards(), hashed_files(tmp_path, ["y", "x"])) == ["x"]
    with pytest.raises(InputError, match="gone cannot be read: No such file"):
        shared_images(shards(), hashed_files(tmp_path, ["gone"]))
