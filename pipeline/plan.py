"""Which image goes into which shard, decided from the listing alone, and the digest of it all.

Rows are ordered by a hash of their source path: every shard is a random sample of the classes,
and neither the order of a listing nor the number of processes changes anything.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.atomic import atomic_file, write_atomically
from pipeline.errors import InputError
from pipeline.schema import (
    DATASET_FILE,
    MANIFEST_FOLDER,
    PLAN_FILE,
    REJECTED_FOLDER,
    SHARDS_FOLDER,
    sample_key,
    shard_name,
)
from pipeline.sources import Listing, SourceImage

ROWS_FILE = "plan.parquet"
"""The rows of the plan, so that a later run can say which source differs."""


@dataclass(frozen=True)
class PlannedShard:
    """A shard before it is made."""

    name: str
    images: tuple[SourceImage, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that decides what the shards hold.

    Attributes:
        parameters: settings, nested at most once; json types.
        class_names: a label is an index into them.
        shards: in order.
        digest: of all of it.
    """

    parameters: dict[str, object]
    class_names: tuple[str, ...]
    shards: tuple[PlannedShard, ...]
    digest: str

    @property
    def num_images(self) -> int:
        """Images in all shards."""
        return sum(len(shard.images) for shard in self.shards)


def make_plan(
    listing: Listing, parameters: Mapping[str, object], shard_images: int, shard_bytes: int
) -> Plan:
    """Distribute a listing over shards.

    A shard closes at `shard_images` images or before it exceeds `shard_bytes` of source bytes
    (a larger image has a shard of its own).

    Args:
        listing: the images.
        parameters: all settings that decide the content, json types.
        shard_images: at least 1.
        shard_bytes: at least 1.

    Raises:
        InputError: two sources have the same key.
    """
    ordered = sorted(listing.images, key=lambda image: (_order(image.source), image.path))
    keys: dict[str, str] = {}
    for image in ordered:
        key = sample_key(image.source)
        if key in keys:
            raise InputError(f"{image.source!r} and {keys[key]!r} have the same key: rename one")
        keys[key] = image.source
    groups: list[list[SourceImage]] = []
    size = 0
    for image in ordered:
        full = groups and (len(groups[-1]) == shard_images or size + image.num_bytes > shard_bytes)
        if not groups or full:
            groups.append([])
            size = 0
        groups[-1].append(image)
        size += image.num_bytes
    digest = sha256(_canonical([dict(parameters), list(listing.class_names)]))
    for image in ordered:
        digest.update(_canonical([image.source, image.num_bytes, image.label]))
    shards = tuple(
        PlannedShard(shard_name(number), tuple(group)) for number, group in enumerate(groups)
    )
    return Plan(dict(parameters), listing.class_names, shards, digest.hexdigest())


def check_plan(root: Path, plan: Plan) -> bool:
    """Whether `root` was begun with this plan; False where nothing was begun.

    Raises:
        InputError: begun with another plan; names what differs, old -> new.
    """
    path = root / PLAN_FILE
    if not path.is_file():
        if (root / DATASET_FILE).exists() or (root / SHARDS_FOLDER).exists():
            raise InputError(f"{root} holds shards but no {PLAN_FILE}: choose another --out")
        return False
    try:
        old = json.loads(path.read_bytes())
        digest, parameters = old["digest"], dict(old["parameters"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): choose another --out") from error
    if digest == plan.digest:
        return True
    raise InputError(
        f"{root} was begun with another plan ({_difference(root, parameters, plan)}): "
        "choose another --out, or remove this one"
    )


def write_plan(root: Path, plan: Plan) -> None:
    """Write the plan's rows, then plan.json with parameters and digest."""
    images = [image for shard in plan.shards for image in shard.images]
    table = pa.table(
        {
            "source": pa.array([image.source for image in images], pa.string()),
            "num_bytes": pa.array([image.num_bytes for image in images], pa.int64()),
            "label": pa.array([image.label for image in images], pa.int64()),
        }
    )
    with atomic_file(root / ROWS_FILE) as file:
        pq.write_table(table, file)
    about = {
        "digest": plan.digest,
        "parameters": plan.parameters,
        "class_names": plan.class_names,
        "num_images": plan.num_images,
        "num_shards": len(plan.shards),
    }
    text = json.dumps(about, indent=1, sort_keys=True)
    write_atomically(root / PLAN_FILE, text.encode() + b"\n")


def discard_begun(root: Path) -> None:
    """Remove what a first run has written to `root` that came to nothing."""
    for name in (SHARDS_FOLDER, MANIFEST_FOLDER, REJECTED_FOLDER):
        shutil.rmtree(root / name, ignore_errors=True)
    for name in (PLAN_FILE, ROWS_FILE):
        (root / name).unlink(missing_ok=True)
    if not any(root.iterdir()):
        root.rmdir()


def _difference(root: Path, old_parameters: Mapping[str, object], plan: Plan) -> str:
    """What differs first, in words."""
    old, new = _flat(old_parameters), _flat(plan.parameters)
    # the source's name decides which parameters it has: it is named before them
    for name in sorted(old.keys() | new.keys(), key=lambda n: (n != "saliency.source", n)):
        if old.get(name) != new.get(name):
            return f"{name}: {old.get(name, 'none')} -> {new.get(name, 'none')}"
    try:
        table = pq.read_table(root / ROWS_FILE)
    except (OSError, pa.ArrowException):
        return "other images"
    before = dict(
        zip(table["source"].to_pylist(), table["num_bytes"].to_pylist(), strict=True),
    )
    now = {image.source: image.num_bytes for shard in plan.shards for image in shard.images}
    for source in sorted(before.keys() | now.keys()):
        if source not in now:
            return f"{source} is gone"
        if source not in before:
            return f"{source} is new"
        if before[source] != now[source]:
            return f"{source}: {before[source]} -> {now[source]} bytes"
    return "other class labels"


def _flat(parameters: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": v for inner, v in value.items()})
        else:
            flat[name] = value
    return flat


def _order(source: str) -> bytes:
    return blake2b(source.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"
