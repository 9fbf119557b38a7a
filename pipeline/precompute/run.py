"""Precompute from the settings to dataset.json; the caller chooses who makes the shards."""

import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from multiprocessing import get_context

import cv2
import numpy as np
import PIL

from pipeline.core.errors import InputError, write_error
from pipeline.core.plain import fitted
from pipeline.core.progress import WARNING, Standing, numbered, say, show
from pipeline.images.pixel_format import FEW_LEVELS, PLAIN, RGB, PixelFormat
from pipeline.images.value_range import LIKE, declared, plain_images
from pipeline.precompute.begin import Work, begin, discard_begun
from pipeline.precompute.build import BuiltShard, ScannedShard, ShardJob, ensure_shard
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.plan import read_plans, write_info
from pipeline.saliency.registry import describe_saliency_source
from pipeline.saliency.worth import worth_of
from pipeline.shardset.manifest import (
    DatasetInfo,
    SetError,
    read_manifest,
    read_rejected,
    write_dataset_info,
)
from pipeline.shardset.schema import (
    DATASET_FILE,
    REJECTED_FOLDER,
    SCHEMA_VERSION,
    manifest_file,
)
from pipeline.storage.storage import is_url, open_store
from pipeline.storage.store import Store

MOST_READ = 16
"""Shards whose maps are looked at, to say how clear they are."""
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


def run_precompute(
    config: PrecomputeConfig, build_all: Builder = build_here, *, most: int | None = None
) -> DatasetInfo:
    """Make a shard set, or what is missing of it, and describe it in dataset.json.

    With `most` it is of so many of the images, spread over all.

    Raises:
        InputError: the data or the output cannot be used, another plan was begun or another process
            works there, a source cannot be read or has changed, or too many images were rejected.
    """
    out = open_store(config.out)
    with out.alone():
        return _make_set(config, out, build_all, most)


def _make_set(
    config: PrecomputeConfig, out: Store, build_all: Builder, most: int | None
) -> DatasetInfo:
    saliency = config.make_saliency().pinned()
    described = describe_saliency_source(config.saliency_name, saliency)
    try:
        work = begin(config, out, described, most)
    except OSError as error:
        raise write_error(out.url, error) from error
    known = next((plan.pixels for plan in read_plans(out) if plan.pixels is not None), None)
    pixels = config.pixels_like() if known is None else fitted(PixelFormat, known)
    jobs = [
        ShardJob(
            data=work.data,
            out=out,
            plan_digest=plan.digest,
            saliency=saliency,
            saliency_size=config.saliency_size,
            max_pixels=config.max_pixels,
            resize_short=config.resize_short,
            pixels=pixels,
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
        if any(isinstance(shard, ScannedShard) for shard in built):
            pixels, built = _second_pass(config, out, work, jobs, built, build_all)
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
        pixels=pixels or PLAIN,
    )
    if info.num_images == 0:
        why = _first_reasons(out, built)
        if not work.began_before:
            discard_begun(out)
        raise InputError(
            f"none of the {work.num_images} images in {config.data} can be used: {why}"
        )
    if num_rejected > config.max_rejected_fraction * work.num_images:
        raise InputError(
            f"{num_rejected} of {work.num_images} images cannot be used "
            f"({num_rejected / work.num_images:.1%}), more than --max-rejected-fraction "
            f"{config.max_rejected_fraction}: {_first_reasons(out, built)} (all of them, with "
            f"reasons: parquet files in {out.where(REJECTED_FOLDER)}); mend them or raise the "
            "limit and run this again"
        )
    try:
        write_dataset_info(out, info)
    except OSError as error:
        raise write_error(out.where(DATASET_FILE), error) from error
    _warn_of_range(built, info.pixels)
    made = [shard for shard in built if shard.rebuilt]
    num_read = sum(shard.num_sources for shard in made)
    reasons = f" (reasons in {out.where(REJECTED_FOLDER)})" if info.num_rejected else ""
    where = f"{numbered(len(info.shards), 'shard')} at {out.url}"
    say(f"{numbered(info.num_images, 'row')} in {where}")
    say(f"{info.num_rejected} rejected{reasons}, {work.ignored}")
    say(f"saliency {config.saliency_name}: {worth_of(_separabilities(out, info))}")
    say(
        f"{numbered(len(made), 'shard')} made, {len(built) - len(made)} skipped as whole; "
        f"{numbered(num_read, 'image')} read in {seconds:.1f} s, "
        f"{num_read / max(seconds, 1e-9):.0f} images/s"
    )
    return info


def _separabilities(out: Store, info: DatasetInfo) -> list[float]:
    """Those of the maps of at most `MOST_READ` shards, spread over the set."""
    found: list[float] = []
    for shard in info.shards[:: -(-len(info.shards) // MOST_READ)]:
        with suppress(SetError, OSError):  # the set is whole without them
            rows = read_manifest(out, shard.name, ["separability"])
            found += rows["separability"].drop_null().to_pylist()
    return found


def _second_pass(
    config: PrecomputeConfig,
    out: Store,
    work: Work,
    jobs: Sequence[ShardJob],
    first: Sequence[BuiltShard],
    build_all: Builder,
) -> tuple[PixelFormat, list[BuiltShard]]:
    """Declare the set's format, which stays in its plans, and make the shards that wait for it.

    Where most images have other than three channels, all shards are made anew.
    """
    scanned = [shard for shard in first if isinstance(shard, ScannedShard)]
    done = [shard for shard in first if not isinstance(shard, ScannedShard)]
    seen = [one for shard in scanned for one in shard.seen]
    seen.append(plain_images(sum(shard.info.num_images for shard in done)))
    channels = RGB if work.kept else None
    pixels = declared(seen, config.range, bits=config.bits, channels=channels)
    if pixels.channels != RGB:
        if not jobs[0].saliency.any_channels:
            pixels.check_rgb(f"saliency {config.saliency_name}")
        for shard in done:
            out.remove(manifest_file(shard.info.name))
        done = []
    for generation, plan in work.plans.items():
        write_info(out, replace(plan, pixels=asdict(pixels)), generation)
    like = "" if config.range[0] == LIKE else f"; validation images: --range like {out.url}"
    say(f"not all images are 8-bit of three channels: {pixels.words} (--range{like})")
    names = {shard.info.name for shard in done}
    waiting = [replace(job, pixels=pixels) for job in jobs if job.name not in names]
    num_images = work.num_images - sum(shard.num_sources for shard in done)
    made = _tracked(build_all(waiting), num_images)
    return pixels, sorted([*done, *made], key=lambda shard: shard.info.name)


def _warn_of_range(built: Sequence[BuiltShard], pixels: PixelFormat) -> None:
    clipped, few = "values outside of the range, which were clipped", f"fewer than {FEW_LEVELS}"
    for number, what in (
        (sum(shard.num_clipped for shard in built), f'{clipped} ("outside" in their .json)'),
        (sum(shard.num_few_levels for shard in built), f'{few} levels ("levels" in their .json)'),
    ):
        if number:
            total = sum(shard.info.num_images for shard in built)
            say(f"{WARNING}{number} of {total} images have {what}: {pixels.words}; see --range")


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


def _first_reasons(out: Store, built: list[BuiltShard]) -> str:
    """The first three images on the rejected lists, and why they are there."""
    found: list[str] = []
    for shard in built:
        if shard.num_rejected and len(found) < 3:
            rows = read_rejected(out, shard.info.name).slice(0, 3 - len(found)).to_pylist()
            found += [f"{row['source']}: {row['reason']}" for row in rows]
    return "; ".join(found) or "no reason is listed"
