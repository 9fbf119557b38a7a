"""One shard of a folder of images, planned and ready to be made without Ray."""

from pathlib import Path

from pipeline.precompute.build import ShardJob
from pipeline.precompute.plan import make_plan, write_plan
from pipeline.saliency.interface import SaliencySource
from pipeline.sources.listing import SourceOptions, collect
from pipeline.sources.registry import open_source
from pipeline.storage.storage import open_store
from pipeline.storage.store import LocalStore


def job_of_folder(
    data: Path,
    out: Path,
    saliency: SaliencySource,
    *,
    labels: bool = False,
    saliency_size: int = 8,
    max_pixels: int = 100_000,
) -> ShardJob:
    """All images below ``data`` in one shard; its plan is written."""
    listing = open_source(data, SourceOptions(labels=labels))
    plan = make_plan(collect(listing), {}, shard_images=1000, shard_bytes=1 << 30)
    write_plan(open_store(out), plan)
    return ShardJob(
        data=listing.data,
        out=open_store(out),
        plan_digest=plan.info.digest,
        saliency=saliency,
        saliency_size=saliency_size,
        max_pixels=max_pixels,
    )


def out_of(job: ShardJob) -> Path:
    """The folder of the shard set."""
    assert isinstance(job.out, LocalStore)
    return job.out.root
