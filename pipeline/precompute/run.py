"""Precompute from the settings to dataset.json; the caller chooses who makes the shards."""

import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import cv2
import numpy as np
import PIL

from pipeline.core.errors import InputError, write_error
from pipeline.core.progress import Standing, numbered, say, show
from pipeline.precompute.begin import begin, discard_begun
from pipeline.precompute.build import BuiltShard, ShardJob, ensure_shard
from pipeline.precompute.config import PrecomputeConfig
from pipeline.saliency.registry import describe_saliency_source
from pipeline.shardset.manifest import DatasetInfo, read_rejected, write_dataset_info
from pipeline.shardset.schema import DATASET_FILE, REJECTED_FOLDER, SCHEMA_VERSION
from pipeline.storage.storage import is_url, open_store
from pipeline.storage.store import Store

Builder = Callable[[Sequence[ShardJob]], Iterable[BuiltShard]]
"""Makes shards and yields each that is whole, in any order."""


def build_here(jobs: Sequence[ShardJob], num_processes: int = 1) -> Iterator[BuiltShard]:
    """Make all shards in this process, or in several child processes.

    An image that kills its process ends the run; `pipeline.precompute.ray_job` isolates it.
    """
    if num_processes == 1:
        yield from map(ensure_shard, jobs)
        return
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(ensure_shard, jobs)


def run_precompute(config: PrecomputeConfig, build_all: Builder = build_here) -> DatasetInfo:
    """Make a shard set, or what is missing of it, and describe it in dataset.json.

    Raises:
        InputError: the data or the output cannot be used, another plan was begun there, a source
            cannot be read or has changed, or too many images were rejected.
    """
    out = open_store(config.out)
    saliency = config.make_saliency().pinned()
    described = describe_saliency_source(config.saliency_name, saliency)
    try:
        work = begin(config, out, described)
    except OSError as error:
        raise write_error(out.url, error) from error
    jobs = [
        ShardJob(
            data=work.data,
            out=out,
            plan_digest=plan.digest,
            saliency=saliency,
            saliency_size=config.saliency_size,
            max_pixels=config.max_pixels,
            resize_short=config.resize_short,
            generation=generation,
            first_shard=plan.first_shard,
            number=number,
        )
        for generation, plan in work.plans.items()
        for number in range(plan.num_shards)
    ]
    data = str(config.data)
    say(f"{data.partition('?')[0] if is_url(data) else data}: {work.summary}")
    started = time.monotonic()
    built: list[BuiltShard] = []
    try:
        if jobs:
            built = _tracked(build_all(jobs), work.num_images)
    finally:
        # Processes died, or were stopped because another shard failed. A store that may be the
        # reason is swept by the next run.
        if jobs and (not out.is_remote or sys.exc_info()[0] is None):
            out.sweep()
    seconds = time.monotonic() - started
    shards = (*work.kept, *(shard.info for shard in built))
    num_rejected = sum(shard.num_rejected for shard in built)
    info = DatasetInfo(
        schema_version=SCHEMA_VERSION,
        shards=tuple(sorted(shards, key=lambda shard: shard.name)),
        class_names=work.last.class_names,
        saliency=described,
        saliency_size=config.saliency_size,
        plan_digest=work.last.set_digest,
        num_rejected=work.num_kept_rejected + num_rejected,
        versions={  # of what decides bytes: decoders, encoders and arithmetic
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "pillow": PIL.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
    )
    if info.num_images == 0:
        why = _first_reason(out, built)
        if not work.began_before:
            discard_begun(out)
        raise InputError(
            f"none of the {work.num_images} images in {config.data} can be used: {why}"
        )
    if num_rejected > config.max_rejected_fraction * work.num_images:
        raise InputError(
            f"{num_rejected} of {work.num_images} images cannot be used "
            f"({num_rejected / work.num_images:.1%}), more than --max-rejected-fraction "
            f"{config.max_rejected_fraction}: {_first_reason(out, built)} (all of them: "
            f"{out.where(REJECTED_FOLDER)}); mend them or raise the limit and run this again"
        )
    try:
        write_dataset_info(out, info)
    except OSError as error:
        raise write_error(out.where(DATASET_FILE), error) from error
    made = [shard for shard in built if shard.rebuilt]
    num_read = sum(shard.num_sources for shard in made)
    reasons = f" (reasons in {out.where(REJECTED_FOLDER)})" if info.num_rejected else ""
    where = f"{numbered(len(info.shards), 'shard')} at {out.url}"
    say(f"{numbered(info.num_images, 'row')} in {where}")
    say(f"{info.num_rejected} rejected{reasons}, {work.ignored}")
    say(
        f"{numbered(len(made), 'shard')} made, {len(built) - len(made)} skipped as whole; "
        f"{numbered(num_read, 'image')} read in {seconds:.1f} s, "
        f"{num_read / max(seconds, 1e-9):.0f} images/s"
    )
    return info


def _tracked(shards: Iterable[BuiltShard], num_images: int) -> list[BuiltShard]:
    """All shards, by name, with progress; shards that were whole before took no time."""
    standing = Standing(work="making shards", done=0, total=num_images, unit="images")
    show(standing)
    built: list[BuiltShard] = []
    for shard in shards:
        built.append(shard)
        given = standing.given + (0 if shard.rebuilt else shard.num_sources)
        standing = replace(standing, done=standing.done + shard.num_sources, given=given)
        show(standing)
    return sorted(built, key=lambda shard: shard.info.name)


def _first_reason(out: Store, built: list[BuiltShard]) -> str:
    """The first image on the rejected lists and why it is there."""
    for shard in built:
        if shard.num_rejected:
            first = read_rejected(out, shard.info.name).slice(0, 1).to_pylist()[0]
            return f"{first['source']}: {first['reason']}"
    return "no reason is listed"
