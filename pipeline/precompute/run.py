"""The whole of precompute but for who makes the shards: begin, make, declare complete."""

import sys
import time
from collections.abc import Callable, Mapping

from pipeline.core.errors import InputError, write_error
from pipeline.precompute.begin import Work, begin
from pipeline.precompute.build import BuiltShard, ShardJob
from pipeline.precompute.config import PrecomputeConfig, open_place
from pipeline.precompute.plan_files import discard_begun
from pipeline.precompute.report import (
    first_reason,
    library_versions,
    say_what_is_there,
    say_what_was_done,
)
from pipeline.saliency.registry import describe_saliency_source
from pipeline.shardset.manifest import DatasetInfo, write_dataset_info
from pipeline.shardset.schema import DATASET_FILE, REJECTED_FOLDER, SCHEMA_VERSION

Builder = Callable[[Mapping[int, ShardJob], Work], list[BuiltShard]]
"""Makes all shards of the work: given the first job of each plan, by generation, returns what came
of each shard, in any order."""


def run_precompute(config: PrecomputeConfig, build_all: Builder) -> DatasetInfo:
    """Make a shard set, or what is missing of it, and describe it in dataset.json.

    Args:
        config: what a person said.
        build_all: makes the shards.

    Raises:
        InputError: the data or the output cannot be used, another plan was begun there, a source
            or a store cannot be read or has changed, or too many images had to be rejected.
    """
    out = open_place(config.out)
    saliency = config.make_saliency().pinned()
    described = describe_saliency_source(config.saliency_name, saliency)
    try:
        work = begin(config, out, described)
    except OSError as error:
        raise write_error(out.url, error) from error
    say_what_is_there(config.data, out, config.saliency, work)
    jobs = {
        generation: ShardJob(
            data=work.place,
            out=out,
            first_shard=plan.first_shard,
            plan_digest=plan.digest,
            saliency=saliency,
            saliency_size=config.saliency_size,
            max_pixels=config.max_pixels,
            resize_short=config.resize_short or 0,
            batch_images=saliency.batch_images,
            generation=generation,
        )
        for generation, plan in work.plans.items()
    }
    started = time.monotonic()
    built: list[BuiltShard] = []
    if jobs:
        try:
            built = sorted(build_all(jobs, work), key=lambda shard: shard.info.name)
        finally:
            # processes died, or were stopped because another shard failed; a store that may be
            # the reason is swept by the next run
            if not out.is_remote or sys.exc_info()[0] is None:
                out.sweep()
    seconds = time.monotonic() - started
    num_rejected = sum(shard.num_rejected for shard in built)
    info = DatasetInfo(
        schema_version=SCHEMA_VERSION,
        shards=tuple(sorted((*work.kept, *(s.info for s in built)), key=lambda shard: shard.name)),
        class_names=work.class_names,
        saliency=described,
        saliency_size=config.saliency_size,
        plan_digest=work.plan_digest,
        num_rejected=work.num_kept_rejected + num_rejected,
        versions=library_versions(),
    )
    if info.num_images == 0:
        why = first_reason(out, built)
        if not work.began_before:
            discard_begun(out)
        raise InputError(
            f"none of the {work.num_images} images in {config.data} can be used: {why}"
        )
    if num_rejected > config.max_rejected_fraction * work.num_images:
        raise InputError(
            f"{num_rejected} of {work.num_images} images cannot be used "
            f"({num_rejected / work.num_images:.1%}), more than --max-rejected-fraction "
            f"{config.max_rejected_fraction}: {first_reason(out, built)} (all of them: "
            f"{out.where(REJECTED_FOLDER)}); mend them or raise the limit and run this again"
        )
    try:
        write_dataset_info(out, info)
    except OSError as error:
        raise write_error(out.where(DATASET_FILE), error) from error
    say_what_was_done(out, info, built, work.num_ignored, seconds)
    return info
