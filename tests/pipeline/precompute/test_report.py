"""The figures that a person watches."""

from pipeline.precompute.build import BuiltShard
from pipeline.precompute.report import started_work, with_shard
from pipeline.shardset.manifest import ShardInfo


def built(num_images: int, num_rejected: int = 0, rebuilt: bool = True) -> BuiltShard:
    info = ShardInfo(name="shard-000000", num_images=num_images, num_bytes=1, sha256="")
    return BuiltShard(info, num_rejected, rebuilt)


def test_shards_that_were_whole_count_but_say_nothing_of_the_speed() -> None:
    standing = started_work(1000)
    assert (standing.done, standing.given, standing.total) == (0, 0, 1000)
    standing = with_shard(standing, built(100, rebuilt=False))
    assert (standing.done, standing.given) == (100, 100)
    standing = with_shard(standing, built(45, num_rejected=5))
    assert (standing.done, standing.given) == (150, 100)
