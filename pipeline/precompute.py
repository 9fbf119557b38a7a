"""The Ray Data job: a folder of images becomes a shard set. One row = one shard, many at once."""

import logging
import pickle
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.atomic import sweep_temporaries, temporaries
from pipeline.build import BuiltShard, ShardJob
from pipeline.codecs import MAX_PIXELS
from pipeline.errors import InputError, write_error
from pipeline.isolation import ShardError, process_isolation
from pipeline.manifest import DatasetInfo, write_dataset_info
from pipeline.plan import Plan, check_plan, discard_begun, make_plan, write_plan
from pipeline.precompute_report import (
    Progress,
    first_reason,
    library_versions,
    say_what_is_there,
    say_what_was_done,
)
from pipeline.ray_session import ray_running
from pipeline.saliency.registry import describe_saliency_source, make_saliency_source
from pipeline.schema import (
    DATASET_FILE,
    MANIFEST_FOLDER,
    REJECTED_FOLDER,
    SALIENCY_SIZE,
    SCHEMA_VERSION,
    SHARDS_FOLDER,
)
from pipeline.sources import Listing, list_folder

MAX_RETRIES = 2
"""How often a shard is tried again when the process that makes it dies."""

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PrecomputeConfig:
    """From a folder of images to a shard set with saliency maps.

    Attributes:
        data: Folder of images, at any depth. Top-level folders become class labels.
        out: Folder of the shard set. A run that is started again redoes only what is missing.
        saliency: Where the saliency maps come from: boundary, centre, fine_grained,
            spectral_residual or uniform.
        labels: Whether top-level folders become class labels.
        shard_images: A shard closes at this many images...
        shard_mib: ...or at this many MiB of source bytes.
        saliency_size: Side of the stored saliency maps in cells.
        max_rejected_fraction: More images than this share that cannot be used are an error.
        max_pixels: Larger images are rejected before they are decoded.
    """

    data: Path
    out: Path
    saliency: str = "boundary"
    labels: bool = True
    shard_images: int = 256
    shard_mib: int = 256
    saliency_size: int = SALIENCY_SIZE
    max_rejected_fraction: float = 0.05
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        make_saliency_source(self.saliency)
        for name in ("shard_images", "shard_mib", "max_pixels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 8 <= self.saliency_size <= 1024:
            raise InputError(f"saliency_size must be in 8..1024, got {self.saliency_size}")
        if not 0 <= self.max_rejected_fraction <= 1:
            raise InputError(
                f"max_rejected_fraction must be in 0..1, got {self.max_rejected_fraction}"
            )


def precompute(config: PrecomputeConfig) -> DatasetInfo:
    """Make a shard set, or what is missing of it, and describe it in dataset.json.

    Uses the Ray that is running (RAY_ADDRESS is respected), else starts one for the time.

    Raises:
        InputError: the data or the output folder cannot be used, another plan was begun there,
            a source cannot be read or has changed, or too many images had to be rejected.
    """
    data, out = config.data.expanduser().resolve(), config.out.expanduser().resolve()
    if out == data:
        raise InputError(f"--out is the data folder itself, {out}: choose another")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: a folder is wanted")
    saliency = make_saliency_source(config.saliency)
    described = describe_saliency_source(config.saliency, saliency)
    listing = list_folder(data, config.labels)
    plan = _plan(config, listing, described)
    began_before = _begin(out, plan)
    say_what_is_there(data, listing, plan)
    jobs = [
        ShardJob(
            data=data,
            out=out,
            shard=shard,
            plan_digest=plan.digest,
            saliency=saliency,
            saliency_size=config.saliency_size,
            max_pixels=config.max_pixels,
        )
        for shard in plan.shards
    ]
    started = time.monotonic()
    try:
        with ray_running(), _quiet_ray_data():
            built = sorted(_build_all(jobs, plan.num_images), key=lambda shard: shard.info.name)
    finally:
        _sweep(out)  # of processes that died, or were stopped because another shard has failed
    seconds = time.monotonic() - started
    info = DatasetInfo(
        schema_version=SCHEMA_VERSION,
        shards=tuple(shard.info for shard in built),
        class_names=plan.class_names,
        saliency=described,
        saliency_size=config.saliency_size,
        plan_digest=plan.digest,
        num_rejected=sum(shard.num_rejected for shard in built),
        versions=library_versions(),
    )
    if info.num_images == 0:
        reason = first_reason(out, info)
        if not began_before:
            discard_begun(out)
        raise InputError(f"none of the {plan.num_images} images below {data} can be used: {reason}")
    if info.num_rejected > config.max_rejected_fraction * plan.num_images:
        raise InputError(
            f"{info.num_rejected} of {plan.num_images} images cannot be used "
            f"({info.num_rejected / plan.num_images:.1%}), more than --max-rejected-fraction "
            f"{config.max_rejected_fraction}: {first_reason(out, info)} (all of them: "
            f"{out / REJECTED_FOLDER}); mend them or raise the limit and run this again"
        )
    try:
        write_dataset_info(out, info)
    except OSError as error:
        raise write_error(str(out / DATASET_FILE), error) from error
    say_what_was_done(out, info, built, listing.num_ignored, seconds)
    return info


def _plan(config: PrecomputeConfig, listing: Listing, saliency: dict[str, object]) -> Plan:
    parameters: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "saliency": saliency,
        "saliency_size": config.saliency_size,
        "shard_images": config.shard_images,
        "shard_mib": config.shard_mib,
        "max_pixels": config.max_pixels,
        "labels": config.labels,
    }
    return make_plan(listing, parameters, config.shard_images, config.shard_mib * MIB)


def _begin(out: Path, plan: Plan) -> bool:
    """Write the plan, or sweep up after an earlier run of it; returns whether there was one."""
    began_before = check_plan(out, plan)
    try:
        _sweep(out)
        if not began_before:
            write_plan(out, plan)
    except OSError as error:
        raise write_error(str(out), error) from error
    return began_before


def _sweep(out: Path) -> None:
    for folder in (".", SHARDS_FOLDER, MANIFEST_FOLDER, REJECTED_FOLDER):
        sweep_temporaries(out / folder)


def _build_all(jobs: list[ShardJob], num_images: int) -> list[BuiltShard]:
    """Make the shards on all of Ray's CPUs.

    What a shard fails of travels back as a row: an exception in a Ray Data task would bury its
    one line under the traces of two processes.
    """
    rows = [{"name": job.shard.name, "job": pickle.dumps(job)} for job in jobs]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    with warnings.catch_warnings():
        # max_retries has no other way in, and without it Ray Data tries a crash again for ever
        warnings.simplefilter("ignore", RayDeprecationWarning)
        results = dataset.map(_run_job, num_cpus=1, max_retries=MAX_RETRIES)
    progress = Progress(num_images)
    built: list[BuiltShard] = []
    try:
        for row in results.iter_rows():
            if row["error"]:
                raise InputError(row["error"])
            shard: BuiltShard = pickle.loads(row["shard"])
            built.append(shard)
            progress.add(shard)
    except RayError as error:
        raise RuntimeError(
            f"a process died while it made {_suspects(jobs[0].out)} ({1 + MAX_RETRIES} tries): "
            f"{len(built)} of {len(jobs)} shards are made and kept, and another run goes on there"
        ) from error
    return built


def _suspects(out: Path) -> str:
    """The shards that have left most temporary files: whoever makes them dies each time."""
    left = Counter(path.name[1:].split(".")[0] for path in temporaries(out / SHARDS_FOLDER))
    most = max(left.values(), default=0)
    return " or ".join(sorted(name for name, n in left.items() if n == most)) or "a shard"


def _run_job(row: dict[str, Any]) -> dict[str, Any]:
    """Make one shard, in a Ray task."""
    try:
        shard = process_isolation().build(row["name"], row["job"])
    except (InputError, ShardError) as error:
        return {"error": str(error), "shard": b""}
    except OSError as error:
        return {"error": str(write_error(row["name"], error)), "shard": b""}
    return {"error": "", "shard": pickle.dumps(shard)}


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Ray Data without its progress bars and its log."""
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars
    chatter = logging.getLogger("ray.data")
    level = chatter.level
    context.enable_progress_bars = False
    chatter.setLevel(logging.CRITICAL)  # what fails is raised, and said once
    try:
        yield
    finally:
        context.enable_progress_bars = before
        chatter.setLevel(level)
